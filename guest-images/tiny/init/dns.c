/* One question to a name server (RFC 1035 §4). */
#include "net.h"

enum {
	HEADER = 12,
	TYPE_A = 1,
	CLASS_IN = 1,
	PORT = 53,
	TRIES = 3,
	PATIENCE = 5000,
};

/* The first name server that the kernel has learned of by DHCP or from `ip=`. */
static u32 name_server(void)
{
	static char text[1024];

	read_word("/proc/net/pnp", text, sizeof(text));
	for (const char *line = text; *line; line++) {
		char *address = after(line, "nameserver ");

		if (address) {
			cut(address, '\n');
			return address_in(address);
		}
	}
	return 0;
}

/* Writes the question for the addresses of `name`; its length. */
static u64 make_question(unsigned char *question, const char *name)
{
	/* Number 1, recursion desired, one question. */
	static const unsigned char header[HEADER] = { 0, 1, 1, 0, 0, 1 };
	u64 length = HEADER;

	for (u64 i = 0; i < HEADER; i++)
		question[i] = header[i];
	while (*name) {
		u64 start = length++;

		while (*name && *name != '.')
			question[length++] = (unsigned char)*name++;
		question[start] = (unsigned char)(length - start - 1);
		if (*name)
			name++;
	}
	question[length++] = 0;
	question[length++] = 0;
	question[length++] = TYPE_A;
	question[length++] = 0;
	question[length++] = CLASS_IN;
	return length;
}

static u32 word_at(const unsigned char *data, u64 place)
{
	return (u32)data[place] << 8 | data[place + 1];
}

/* The first address among the answers; zero if there is none. */
static u32 address_in_answer(const unsigned char *answer, u64 length, u64 place)
{
	for (u32 left = word_at(answer, 6); left && place < length; left--) {
		/* A name is labels up to an empty one or a pointer. */
		while (place < length && answer[place] && answer[place] < 0xc0)
			place += answer[place] + 1u;
		place += place < length && answer[place] ? 2 : 1;
		if (place + 14 > length)
			return 0;
		if (word_at(answer, place) == TYPE_A)
			return *(const u32 *)(answer + place + 10);
		place += 10 + word_at(answer, place + 8);
	}
	return 0;
}

/* Asks and waits for the answer; its length, or zero. */
static long ask(int fd, const unsigned char *question, u64 length)
{
	for (int try = 0; try < TRIES; try++) {
		if (sys_write(fd, question, length) < 0)
			return 0;
		if (readable(fd, PATIENCE)) {
			long count = sys_read(fd, packet, sizeof(packet));

			return count < (long)length ? 0 : count;
		}
	}
	return 0;
}

/* NAME */
void resolve(char *name)
{
	static unsigned char question[2500];
	struct socket_address server = { AF_INET, swap16(PORT), name_server(), 0 };
	u64 length = make_question(question, name);
	int fd = open_socket(SOCK_DGRAM, 0);
	const unsigned char *answer = (unsigned char *)packet;
	struct line line;
	long count = 0;

	if (fd < 0)
		return;
	if (server.address && sys_connect(fd, &server, sizeof(server)) == 0)
		count = ask(fd, question, length);
	sys_close(fd);
	start_line(&line);
	add_text(&line, name);
	if (!server.address)
		add_text(&line, ": no name server");
	else if (!count)
		add_text(&line, ": no answer");
	else if (answer[3] & 15) {
		add_text(&line, ": rcode=");
		add_number(&line, answer[3] & 15, 1);
	} else {
		add_text(&line, ": address=");
		add_address(&line, address_in_answer(answer, (u64)count, length));
	}
	print_line(&line);
}

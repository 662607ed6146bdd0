#include "net.h"

enum {
	ECONNREFUSED = 111,
	/* How often a datagram is sent, and how long its echo may take, in milliseconds. */
	TRIES = 3,
	PATIENCE = 10000,
	LONGEST = 65507,
	/* How long it may take until somebody listens, and a pause between two tries. */
	LATENESS = 60000,
	PAUSE = 100,
};

enum echo { SAME, OTHER, LOST, REFUSED };

/* Waits for the echo of a datagram; those of other lengths are late ones of others. */
static enum echo wait_for_echo(int fd, const char *datagram, u64 size)
{
	u64 end = milliseconds() + PATIENCE, now;

	while ((now = milliseconds()) < end && readable(fd, (int)(end - now))) {
		long length = sys_read(fd, packet, sizeof(packet));

		if (length == -ECONNREFUSED)
			return REFUSED;
		if (length != (long)size)
			continue;
		for (u64 i = 0; i < size; i++)
			if (packet[i] != datagram[i])
				return OTHER;
		return SAME;
	}
	return LOST;
}

/* Sends a datagram and waits for its echo; again while nobody listens there. */
static enum echo send_and_wait(int fd, const char *datagram, u64 size)
{
	u64 end = milliseconds() + LATENESS;

	for (;;) {
		long sent = sys_write(fd, datagram, size);
		enum echo echo = sent == (long)size ? wait_for_echo(fd, datagram, size) :
				 sent == -ECONNREFUSED ? REFUSED :
							 LOST;

		if (echo != REFUSED)
			return echo;
		if (milliseconds() >= end)
			return LOST;
		sleep_milliseconds(PAUSE);
	}
}

/* ADDRESS,PORT,SIZE[,SIZE…]: sends a datagram of each size and waits for its echo. */
void exchange_by_udp(char *value)
{
	static char datagram[65536];
	char *port = cut(value, ','), *size = cut(port, ',');
	struct socket_address address = address_of(value, port);
	u64 sizes = 0, echoes = 0, lost = 0, wrong = 0;
	int fd = open_socket(SOCK_DGRAM, 0);
	struct line line;
	long error;

	if (fd < 0)
		return;
	error = sys_connect(fd, &address, sizeof(address));
	while (!error && *size) {
		char *next = cut(size, ',');
		u64 bytes = number_in(size);
		enum echo echo = LOST;

		bytes = bytes < LONGEST ? bytes : LONGEST;
		/* Each size has other content. */
		pattern(datagram, (bytes + 63) & ~63ul, bytes);
		sizes++;
		for (int try = 0; try < TRIES && echo == LOST; try++) {
			echo = send_and_wait(fd, datagram, bytes);
			lost += echo == LOST;
		}
		echoes += echo == SAME;
		wrong += echo == OTHER;
		size = next;
	}
	sys_close(fd);
	if (error) {
		say_failed("send to", value, error);
		return;
	}
	start_line(&line);
	add_text(&line, "udp ");
	add_text(&line, value);
	add_text(&line, ": echoed=");
	add_number(&line, echoes, 1);
	add_text(&line, " of ");
	add_number(&line, sizes, 1);
	add_text(&line, " lost=");
	add_number(&line, lost, 1);
	add_text(&line, " wrong=");
	add_number(&line, wrong, 1);
	print_line(&line);
}

static int is_stop(const char *data, long length)
{
	return length == 4 && data[0] == 's' && data[1] == 't' && data[2] == 'o' && data[3] == 'p';
}

/* PORT: sends each datagram back, up to one that says "stop". */
void serve_udp(char *value)
{
	struct socket_address address = address_of("0.0.0.0", value), peer;
	u64 datagrams = 0, bytes = 0;
	int fd = open_socket(SOCK_DGRAM, 0);
	struct line line;
	long error, length = 0;

	if (fd < 0)
		return;
	error = sys_bind(fd, &address, sizeof(address));
	if (error) {
		say_failed("listen at", value, error);
		sys_close(fd);
		return;
	}
	say_of("udp-serve", value, "ready");
	do {
		u32 size = sizeof(peer);

		length = sys_receive_from(fd, packet, sizeof(packet), &peer, &size);
		if (length < 0)
			continue;
		sys_send_to(fd, packet, (u64)length, &peer, size);
		datagrams++;
		bytes += (u64)length;
	} while (!is_stop(packet, length));
	sys_close(fd);
	start_line(&line);
	add_text(&line, "udp-serve ");
	add_text(&line, value);
	add_text(&line, ": datagrams=");
	add_number(&line, datagrams, 1);
	add_text(&line, " bytes=");
	add_number(&line, bytes, 1);
	print_line(&line);
}

#include "net.h"

enum {
	HEADER = 8,
	ECHO_REQUEST = 8,
	ECHO_REPLY = 0,
	/* Of an IP header without options, which a raw socket gets too. */
	IP_HEADER = 20,
	/* How long an answer may take, in milliseconds. */
	PATIENCE = 10000,
};

/* The ones' complement of the ones' complement sum of all 16-bit words (RFC 1071). */
static u16 checksum(const unsigned char *data, u64 size)
{
	u32 sum = 0;

	for (u64 i = 0; i < size; i++)
		sum += (u32)data[i] << (i % 2 ? 8 : 0);
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (u16)~sum;
}

/* An echo request with that many bytes after its header, which tell the places. */
static void make_request(unsigned char *request, u64 size, u32 sequence)
{
	u16 sum;

	for (u64 i = 0; i < HEADER + size; i++)
		request[i] = i < HEADER ? 0 : (unsigned char)i;
	request[0] = ECHO_REQUEST;
	request[4] = 'M';
	request[5] = 'y';
	request[6] = (unsigned char)(sequence >> 8);
	request[7] = (unsigned char)sequence;
	sum = checksum(request, HEADER + size);
	request[2] = (unsigned char)sum;
	request[3] = (unsigned char)(sum >> 8);
}

static int is_answer(const unsigned char *answer, const unsigned char *request, u64 size)
{
	if (answer[0] != ECHO_REPLY)
		return 0;
	for (u64 i = 4; i < HEADER + size; i++)
		if (answer[i] != request[i])
			return 0;
	return 1;
}

/* Sends a request and waits for its answer. */
static int is_answered(int fd, u64 size, u32 sequence)
{
	static unsigned char request[2048];
	u64 end = milliseconds() + PATIENCE, now;

	make_request(request, size, sequence);
	if (sys_write(fd, request, HEADER + size) < 0)
		return 0;
	while ((now = milliseconds()) < end && readable(fd, (int)(end - now))) {
		long length = sys_read(fd, packet, sizeof(packet));

		if (length == (long)(IP_HEADER + HEADER + size) &&
		    is_answer((unsigned char *)packet + IP_HEADER, request, size))
			return 1;
	}
	return 0;
}

/* ADDRESS,COUNT[,SIZE] */
void ping(char *value)
{
	char *count = cut(value, ','), *size = cut(count, ',');
	struct socket_address address = address_of(value, "");
	u64 requests = number_in(count), answers = 0, bytes = *size ? number_in(size) : 56;
	int fd = open_socket(SOCK_RAW, IPPROTO_ICMP);
	struct line line;
	long error;

	if (fd < 0)
		return;
	/* Then it receives from there alone. */
	error = sys_connect(fd, &address, sizeof(address));
	if (error) {
		say_failed("ping", value, error);
	} else {
		for (u64 i = 1; i <= requests; i++)
			answers += (u64)is_answered(fd, bytes < 2000 ? bytes : 2000, (u32)i);
		start_line(&line);
		add_text(&line, "ping ");
		add_text(&line, value);
		add_text(&line, ": answers=");
		add_number(&line, answers, 1);
		add_text(&line, " of ");
		add_number(&line, requests, 1);
		print_line(&line);
	}
	sys_close(fd);
}

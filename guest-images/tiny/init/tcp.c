#include "net.h"

/* What went over a connection. */
struct traffic {
	u64 sent, received, sum;
};

/* Sends that many bytes of the pattern; zero, or -errno. */
static long send_pattern(int fd, u64 bytes, struct traffic *traffic)
{
	u64 line_number = 0;

	while (traffic->sent < bytes) {
		u64 left = bytes - traffic->sent, done = 0;
		u64 size = left < sizeof(packet) ? left : sizeof(packet);

		line_number = pattern(packet, sizeof(packet), line_number);
		while (done < size) {
			long written = sys_write(fd, packet + done, size - done);

			if (written < 0)
				return written;
			done += (u64)written;
			traffic->sent += (u64)written;
		}
	}
	return 0;
}

/* Receives until the other side has no more to send; zero, or -errno. */
static long receive_all(int fd, struct traffic *traffic)
{
	long count;

	while ((count = sys_read(fd, packet, sizeof(packet))) > 0) {
		traffic->received += (u64)count;
		traffic->sum = fnv(traffic->sum, packet, count);
	}
	return count;
}

static void tell(const char *what, const char *where, const struct traffic *traffic)
{
	struct line line;

	start_line(&line);
	add_text(&line, what);
	add_text(&line, " ");
	add_text(&line, where);
	add_text(&line, ": sent=");
	add_number(&line, traffic->sent, 1);
	add_text(&line, " received=");
	add_number(&line, traffic->received, 1);
	add_text(&line, " fnv=");
	add_number(&line, traffic->sum, 1);
	print_line(&line);
}

/* Connects, again and again while nobody listens there; the socket, or -errno. */
static int connect_to(const struct socket_address *address)
{
	enum { PATIENCE = 120000, PAUSE = 100 };
	u64 end = milliseconds() + PATIENCE;

	for (;;) {
		int fd = open_socket(SOCK_STREAM, 0);
		long error = fd < 0 ? fd : sys_connect(fd, address, sizeof(*address));

		if (!error)
			return fd;
		if (fd >= 0)
			sys_close(fd);
		if (milliseconds() >= end)
			return (int)error;
		sleep_milliseconds(PAUSE);
	}
}

/*
 * ADDRESS,PORT,BYTES: connects, sends that many bytes, says that these were all, and
 * receives what comes.
 */
void exchange_by_tcp(char *value)
{
	char *port = cut(value, ','), *bytes = cut(port, ',');
	struct socket_address address = address_of(value, port);
	struct traffic traffic = { 0, 0, FNV_START };
	int fd = connect_to(&address);
	long error;

	if (fd < 0) {
		say_failed("connect to", value, fd);
		return;
	}
	error = send_pattern(fd, number_in(bytes), &traffic);
	sys_shutdown(fd, SHUT_WR);
	if (!error)
		error = receive_all(fd, &traffic);
	sys_close(fd);
	if (error)
		say_failed("talk to", value, error);
	tell("tcp", value, &traffic);
}

/*
 * PORT,BYTES: accepts one connection, receives until its other side has no more to
 * send, and sends that many bytes.
 */
void serve_tcp(char *value)
{
	char *bytes = cut(value, ',');
	struct socket_address address = address_of("0.0.0.0", value);
	struct traffic traffic = { 0, 0, FNV_START };
	int listener = open_socket(SOCK_STREAM, 0), fd;
	long error;

	if (listener < 0)
		return;
	error = sys_bind(listener, &address, sizeof(address));
	if (!error)
		error = sys_listen(listener, 8);
	if (error) {
		say_failed("listen at", value, error);
		sys_close(listener);
		return;
	}
	say_of("tcp-serve", value, "ready");
	fd = sys_accept(listener);
	if (fd >= 0) {
		error = receive_all(fd, &traffic);
		if (!error)
			error = send_pattern(fd, number_in(bytes), &traffic);
		sys_close(fd);
	} else {
		error = fd;
	}
	sys_close(listener);
	if (error)
		say_failed("serve", value, error);
	tell("tcp-serve", value, &traffic);
}

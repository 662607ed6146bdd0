#include "commands.h"
#include "net.h"

char packet[65536];

u16 swap16(u16 number)
{
	return (u16)(number << 8 | number >> 8);
}

u32 address_in(const char *text)
{
	u32 address = 0;

	for (int part = 0; part < 4; part++) {
		address |= (u32)(number_in(text) & 255) << 8 * part;
		while (*text >= '0' && *text <= '9')
			text++;
		if (*text != (part < 3 ? '.' : 0))
			return 0;
		text++;
	}
	return address;
}

void add_address(struct line *line, u32 address)
{
	for (int part = 0; part < 4; part++) {
		add_text(line, part ? "." : "");
		add_number(line, address >> 8 * part & 255, 1);
	}
}

struct socket_address address_of(const char *host, const char *port)
{
	struct socket_address address = { AF_INET, 0, 0, 0 };

	address.port = swap16((u16)number_in(port));
	address.address = address_in(host);
	return address;
}

int open_socket(int type, int protocol)
{
	int fd = sys_socket(AF_INET, type, protocol);

	if (fd < 0)
		say_failed("open", "a socket", fd);
	return fd;
}

void name_interface(struct interface_request *request, const char *name)
{
	for (u32 i = 0; i < sizeof(*request); i++)
		((char *)request)[i] = 0;
	for (u32 i = 0; name[i] && i < sizeof(request->name) - 1; i++)
		request->name[i] = name[i];
}

int readable(int fd, int milliseconds)
{
	struct pollfd poll = { fd, POLLIN, 0 };

	return sys_poll(&poll, 1, milliseconds) > 0;
}

u64 milliseconds(void)
{
	struct timespec now;

	sys_clock(CLOCK_MONOTONIC, &now);
	return (u64)(now.seconds * 1000 + now.nanoseconds / 1000000);
}

void sleep_milliseconds(u64 count)
{
	struct timespec time = { (long)(count / 1000), (long)(count % 1000 * 1000000) };

	sys_nanosleep(&time);
}

/* --- Interfaces ----------------------------------------------------------- */

enum {
	SIOCADDRT = 0x890b,
	SIOCGIFFLAGS = 0x8913,
	SIOCSIFFLAGS = 0x8914,
	SIOCGIFADDR = 0x8915,
	SIOCSIFADDR = 0x8916,
	SIOCGIFNETMASK = 0x891b,
	SIOCSIFNETMASK = 0x891c,
	SIOCGIFMTU = 0x8921,
	SIOCGIFHWADDR = 0x8927,

	IFF_UP = 0x1,
	IFF_RUNNING = 0x40,
};

/* Asks the kernel about an interface; zero, or -errno. */
static long ask(int fd, u64 what, const char *name, struct interface_request *request)
{
	name_interface(request, name);
	return sys_ioctl(fd, what, request);
}

static int is_running(int fd, const char *name)
{
	struct interface_request request;

	return ask(fd, SIOCGIFFLAGS, name, &request) == 0 && request.flags & IFF_RUNNING;
}

static void add_hex(struct line *line, u32 number, int digits)
{
	while (digits--) {
		char digit[2] = { "0123456789abcdef"[number >> 4 * digits & 15], 0 };

		add_text(line, digit);
	}
}

static u32 hex_in(const char *text)
{
	u32 number = 0;

	for (;; text++) {
		if (*text >= '0' && *text <= '9')
			number = number << 4 | (u32)(*text - '0');
		else if (*text >= 'A' && *text <= 'F')
			number = number << 4 | (u32)(*text - 'A' + 10);
		else
			return number;
	}
}

/*
 * The gateway of an interface's default route; zero if it has none. /proc/net/route
 * has lines "NAME\tDESTINATION\tGATEWAY\t…", the addresses in hexadecimal digits of
 * numbers in network order.
 */
static u32 gateway_of(const char *name)
{
	static char routes[2048];
	const char *line = routes, *rest;

	read_word("/proc/net/route", routes, sizeof(routes));
	for (;;) {
		if ((rest = after(line, name)) && (rest = after(rest, "\t00000000\t")))
			return hex_in(rest);
		while (*line && *line != '\n')
			line++;
		if (!*line++)
			return 0;
	}
}

static void show_interface(char *name)
{
	struct interface_request request;
	struct line line;
	int fd = open_socket(SOCK_DGRAM, 0);
	long error;
	u32 gateway;

	if (fd < 0)
		return;
	start_line(&line);
	add_text(&line, name);
	add_text(&line, ": mac=");
	error = ask(fd, SIOCGIFHWADDR, name, &request);
	if (error) {
		say_failed("examine", name, error);
		sys_close(fd);
		return;
	}
	/* Behind the address's family. */
	for (int i = 0; i < 6; i++) {
		add_text(&line, i ? ":" : "");
		add_hex(&line, request.hardware[2 + i], 2);
	}
	ask(fd, SIOCGIFMTU, name, &request);
	add_text(&line, " mtu=");
	add_number(&line, request.number, 1);
	add_text(&line, is_running(fd, name) ? " link=up" : " link=down");
	add_text(&line, " address=");
	if (ask(fd, SIOCGIFADDR, name, &request) == 0) {
		u32 bits = 0;

		add_address(&line, request.address.address);
		ask(fd, SIOCGIFNETMASK, name, &request);
		for (u32 mask = request.address.address; mask; mask &= mask - 1)
			bits++;
		add_text(&line, "/");
		add_number(&line, bits, 1);
	} else {
		add_text(&line, "none");
	}
	gateway = gateway_of(name);
	add_text(&line, " gateway=");
	if (gateway)
		add_address(&line, gateway);
	else
		add_text(&line, "none");
	print_line(&line);
	sys_close(fd);
}

/* NAME,ADDRESS/BITS[,GATEWAY]: brings an interface up with an address. */
static void set_address(char *value)
{
	/* The kernel's struct rtentry, as far as it is used here. */
	struct {
		u64 pad;
		struct socket_address destination, gateway, mask;
		u16 flags;
		char rest[62];
	} route = { 0, { AF_INET, 0, 0, 0 }, { AF_INET, 0, 0, 0 }, { AF_INET, 0, 0, 0 }, 3, { 0 } };
	char *address = cut(value, ','), *gateway = cut(address, ',');
	u64 bits = number_in(cut(address, '/'));
	u32 mask = bits ? ~0u << (32 - (bits < 32 ? bits : 32)) : 0;
	struct interface_request request;
	int fd = open_socket(SOCK_DGRAM, 0);
	long error;

	if (fd < 0)
		return;
	name_interface(&request, value);
	request.address = address_of(address, "");
	error = sys_ioctl(fd, SIOCSIFADDR, &request);
	request.address.address = __builtin_bswap32(mask);
	if (!error)
		error = sys_ioctl(fd, SIOCSIFNETMASK, &request);
	if (!error)
		error = ask(fd, SIOCGIFFLAGS, value, &request);
	request.flags |= IFF_UP;
	if (!error)
		error = sys_ioctl(fd, SIOCSIFFLAGS, &request);
	route.gateway.address = address_in(gateway);
	if (!error && *gateway)
		error = sys_ioctl(fd, SIOCADDRT, &route);
	if (error)
		say_failed("set the address of", value, error);
	sys_close(fd);
}

/* NAME,up or NAME,down: waits until the link is so. */
static void wait_for_link(char *value)
{
	enum { PATIENCE = 60000, PAUSE = 50 };
	char *state = cut(value, ',');
	int up = same(state, "up");
	u64 end = milliseconds() + PATIENCE;
	int fd = open_socket(SOCK_DGRAM, 0);
	struct line line;

	if (fd < 0)
		return;
	while (is_running(fd, value) != up && milliseconds() < end)
		sleep_milliseconds(PAUSE);
	start_line(&line);
	add_text(&line, value);
	add_text(&line, is_running(fd, value) ? ": link=up" : ": link=down");
	print_line(&line);
	sys_close(fd);
}

int run_network_command(char *command)
{
	static const struct {
		const char *name;
		void (*run)(char *value);
	} commands[] = {
		{ "link=", show_interface },	  { "address=", set_address },
		{ "link-wait=", wait_for_link },  { "channels=", set_channels },
		{ "feature=", change_feature },	  { "ping=", ping },
		{ "tcp=", exchange_by_tcp },	  { "tcp-serve=", serve_tcp },
		{ "udp=", exchange_by_udp },	  { "udp-serve=", serve_udp },
		{ "resolve=", resolve },
	};
	char *value;

	for (u32 i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		if ((value = after(command, commands[i].name))) {
			commands[i].run(value);
			return 1;
		}
	}
	return 0;
}

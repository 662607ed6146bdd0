/* The network: what its words share. */
#ifndef NET_H
#define NET_H

#include "text.h"

typedef unsigned short u16;

/* The kernel's struct sockaddr_in, its numbers in network order. */
struct socket_address {
	u16 family;
	u16 port;
	u32 address;
	u64 zero;
};

/* The kernel's struct ifreq. */
struct interface_request {
	char name[16];
	union {
		struct socket_address address;
		unsigned char hardware[16];
		u16 flags;
		u32 number;
		void *data;
		char room[24];
	};
};

enum {
	AF_INET = 2,
	SOCK_STREAM = 1,
	SOCK_DGRAM = 2,
	SOCK_RAW = 3,
	IPPROTO_ICMP = 1,
};

/* More than the longest datagram; one word runs at a time. */
extern char packet[65536];

u16 swap16(u16 number);
/* The address 10.0.0.1 and so on in network order; zero if it is none. */
u32 address_in(const char *text);
void add_address(struct line *line, u32 address);
struct socket_address address_of(const char *host, const char *port);

/* A socket, or a line that says why not and a negative number. */
int open_socket(int type, int protocol);
/* A request about an interface. */
void name_interface(struct interface_request *request, const char *name);
/* Whether something can be read within so many milliseconds. */
int readable(int fd, int milliseconds);
/* Milliseconds since the machine's start. */
u64 milliseconds(void);
void sleep_milliseconds(u64 count);

/* ethtool.c */
void set_channels(char *value);
void change_feature(char *value);
/* ping.c, tcp.c, udp.c, dns.c */
void ping(char *value);
void exchange_by_tcp(char *value);
void serve_tcp(char *value);
void exchange_by_udp(char *value);
void serve_udp(char *value);
void resolve(char *value);

#endif

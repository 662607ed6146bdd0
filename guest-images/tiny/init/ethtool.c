/* What an interface can do, and changes of it (Linux: include/uapi/linux/ethtool.h). */
#include "net.h"

enum {
	SIOCETHTOOL = 0x8946,

	ETHTOOL_GSTRINGS = 0x1b,
	ETHTOOL_GFEATURES = 0x3a,
	ETHTOOL_SFEATURES = 0x3b,
	ETHTOOL_GCHANNELS = 0x3c,
	ETHTOOL_SCHANNELS = 0x3d,

	ETH_SS_FEATURES = 4,
	NAME_LENGTH = 32,
	/* Words of features that any kernel has. */
	WORDS = 4,
};

/* Gives `data`, a command and its arguments, to an interface; zero, or -errno. */
static long ethtool(int fd, const char *name, void *data)
{
	struct interface_request request;

	name_interface(&request, name);
	request.data = data;
	return sys_ioctl(fd, SIOCETHTOOL, &request);
}

/* NAME[,COUNT]: uses so many queue pairs. */
void set_channels(char *value)
{
	struct {
		u32 command;
		u32 max_receive, max_transmit, max_other, max_combined;
		u32 receive, transmit, other, combined;
	} channels = { ETHTOOL_GCHANNELS, 0, 0, 0, 0, 0, 0, 0, 0 };
	char *count = cut(value, ',');
	int fd = open_socket(SOCK_DGRAM, 0);
	struct line line;
	long error;

	if (fd < 0)
		return;
	error = ethtool(fd, value, &channels);
	if (!error && *count) {
		channels.command = ETHTOOL_SCHANNELS;
		channels.combined = (u32)number_in(count);
		error = ethtool(fd, value, &channels);
		channels.command = ETHTOOL_GCHANNELS;
		if (!error)
			error = ethtool(fd, value, &channels);
	}
	sys_close(fd);
	if (error) {
		say_failed("set the channels of", value, error);
		return;
	}
	start_line(&line);
	add_text(&line, value);
	add_text(&line, ": channels=");
	add_number(&line, channels.combined, 1);
	add_text(&line, " of ");
	add_number(&line, channels.max_combined, 1);
	print_line(&line);
}

/* The number of the feature `name`, or -ENOENT. */
static long feature_number(int fd, const char *interface, const char *name)
{
	static struct {
		u32 command, set, count;
		char names[WORDS * 32][NAME_LENGTH];
	} strings;
	long error;

	strings.command = ETHTOOL_GSTRINGS;
	strings.set = ETH_SS_FEATURES;
	error = ethtool(fd, interface, &strings);
	if (error)
		return error;
	for (u32 i = 0; i < strings.count && i < WORDS * 32; i++)
		if (same(strings.names[i], name))
			return i;
	return -ENOENT;
}

/* `size` is the number of words that this kernel has. */
static long set_feature(int fd, const char *interface, u32 size, u32 number, int on)
{
	struct {
		u32 command, size;
		struct {
			u32 valid, requested;
		} words[WORDS];
	} change = { ETHTOOL_SFEATURES, size, { { 0, 0 } } };
	long result;

	change.words[number / 32].valid = 1u << number % 32;
	change.words[number / 32].requested = (u32)on << number % 32;
	result = ethtool(fd, interface, &change);
	/* More than zero: not all that was wished for; what is, is shown. */
	return result < 0 ? result : 0;
}

/* NAME,FEATURE[,on|off] */
void change_feature(char *value)
{
	struct {
		u32 command, size;
		struct {
			u32 available, requested, active, never_changed;
		} words[WORDS];
	} features = { ETHTOOL_GFEATURES, WORDS, { { 0, 0, 0, 0 } } };
	char *feature = cut(value, ','), *state = cut(feature, ',');
	int fd = open_socket(SOCK_DGRAM, 0);
	struct line line;
	long number, error;

	if (fd < 0)
		return;
	error = number = feature_number(fd, value, feature);
	if (number >= 0)
		error = ethtool(fd, value, &features);
	if (!error && *state) {
		error = set_feature(fd, value, features.size, (u32)number, same(state, "on"));
		if (!error)
			error = ethtool(fd, value, &features);
	}
	sys_close(fd);
	if (error) {
		say_failed("set the features of", value, error);
		return;
	}
	start_line(&line);
	add_text(&line, value);
	add_text(&line, ": ");
	add_text(&line, feature);
	add_text(&line, features.words[number / 32].active >> number % 32 & 1 ? "=on" : "=off");
	print_line(&line);
}

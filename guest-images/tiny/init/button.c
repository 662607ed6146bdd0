/* The power button, an input device (Linux: input/input.rst). */
#include "commands.h"
#include "text.h"

enum {
	MOST_DEVICES = 10,
	EV_KEY = 1,
	KEY_POWER = 116,
};

/* Its number is that of Linux's EVIOCGNAME(64). */
#define EVIOCGNAME 0x80404506ul

/* The kernel's struct input_event. */
struct input_event {
	struct timespec time;
	unsigned short type, code;
	int value;
};

/* Opens the input device that is the power button; -1 if none is. */
static int open_button(void)
{
	char path[] = "/dev/input/event0", *digit = path + sizeof(path) - 2;
	char name[64];

	if (sys_access("/dev/input") < 0)
		sys_mount("devtmpfs", "/dev");
	for (int number = 0; number < MOST_DEVICES; number++, ++*digit) {
		int fd = sys_open(path, O_RDONLY);

		if (fd < 0)
			continue;
		if (sys_ioctl(fd, EVIOCGNAME, name) > 0 && same(name, "Power Button"))
			return fd;
		sys_close(fd);
	}
	return -1;
}

void wait_for_power_button(void)
{
	struct input_event event;
	int fd = open_button();

	if (fd < 0) {
		say("no power button");
		return;
	}
	/* What was pressed before nobody has seen. */
	say("waiting for the power button");
	while (sys_read(fd, &event, sizeof(event)) == sizeof(event))
		if (event.type == EV_KEY && event.code == KEY_POWER && event.value) {
			say("power button");
			break;
		}
	sys_close(fd);
}

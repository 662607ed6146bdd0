/* What the kernel tells of itself: where it lies, and what it has complained of. */
#include "commands.h"
#include "text.h"

static char text[4096];

/* Cuts off, at the line's end, the line of `lines` in which `what` stands. */
static char *line_with(char *lines, const char *what)
{
	while (*lines) {
		char *next = cut(lines, '\n');

		for (const char *c = lines; *c; c++)
			if (after(c, what))
				return lines;
		lines = next;
	}
	return 0;
}

/* The first word of the line with `what` of a file under /proc, without a 0x. */
static void add_address(struct line *line, const char *name, const char *path, const char *what)
{
	int fd = sys_open(path, O_RDONLY);
	char *found = 0;
	long count;

	/* Each read gives whole lines. */
	while (fd >= 0 && !found && (count = sys_read(fd, text, sizeof(text) - 1)) > 0) {
		text[count] = 0;
		found = line_with(text, what);
	}
	if (fd >= 0)
		sys_close(fd);
	add_text(line, name);
	if (!found) {
		add_text(line, "?");
		return;
	}
	while (*found == ' ')
		found++;
	cut(found, ' ');
	cut(found, '-');
	add_text(line, after(found, "0x") ? after(found, "0x") : found);
}

/*
 * The address of the first byte of code, virtual and physical, and that of some
 * memory which the kernel has mapped for itself.
 */
void print_kernel_address(void)
{
	struct line line;
	int fd = sys_open("/proc/sys/kernel/kptr_restrict", O_WRONLY);

	/* Otherwise even we are told a hash of the address. */
	if (fd >= 0) {
		sys_write(fd, "1", 1);
		sys_close(fd);
	}
	start_line(&line);
	add_address(&line, "kernel-address text=", "/proc/kallsyms", " T _stext");
	add_address(&line, " code=", "/proc/iomem", "Kernel code");
	add_address(&line, " vmalloc=", "/proc/vmallocinfo", "0xf");
	print_line(&line);
}

/* A record of /dev/kmsg: `PRIORITY,NUMBER,TIME,FLAGS;TEXT`, a line, and properties. */
static void print_record(char *record)
{
	char *message = cut(record, ';');
	struct line line;

	cut(message, '\n');
	start_line(&line);
	add_text(&line, "kernel-warning ");
	add_number(&line, number_in(record), 1);
	add_text(&line, ": ");
	add_text(&line, message);
	print_line(&line);
}

/* The kernel's messages of level 4, a warning, and worse. */
void print_kernel_warnings(void)
{
	enum { EPIPE = 32, WARNING = 4 };
	struct line line;
	u64 warnings = 0;
	long count;
	int fd;

	if (sys_access("/dev/kmsg") < 0)
		sys_mount("devtmpfs", "/dev");
	fd = sys_open("/dev/kmsg", O_RDONLY | O_NONBLOCK);
	/* EPIPE: older messages than this have been overwritten. */
	while ((count = sys_read(fd, text, sizeof(text) - 1)) > 0 || count == -EPIPE) {
		if (count < 0)
			continue;
		text[count] = 0;
		/* What programs have written there has a facility, from 8 on. */
		if (number_in(text) > WARNING)
			continue;
		warnings++;
		print_record(text);
	}
	sys_close(fd);
	start_line(&line);
	add_text(&line, "kernel-warnings=");
	add_number(&line, warnings, 1);
	print_line(&line);
}

#include "commands.h"
#include "text.h"

enum { BLOCK = 16384 };

static char block[BLOCK];

/* Opens a file, or says why not. An initramfs has no devices of its own yet. */
static int open_file(const char *path, int flags)
{
	int fd = sys_open(path, flags);

	if (fd == -ENOENT && after(path, "/dev/")) {
		sys_mount("devtmpfs", "/dev");
		fd = sys_open(path, flags);
	}
	if (fd < 0)
		say_failed("open", path, fd);
	return fd;
}

/* Writes all of it, or says why not. */
static int write_file(int fd, const char *path, const char *data, u64 size)
{
	while (size) {
		long written = sys_write(fd, data, size);

		if (written <= 0) {
			say_failed("write", path, written);
			return 0;
		}
		data += written;
		size -= (u64)written;
	}
	return 1;
}

void put_file(char *value)
{
	char *text = cut(value, ',');
	int fd = open_file(value, O_WRONLY | O_CREAT | O_TRUNC);
	u64 length = 0;

	if (fd < 0)
		return;
	while (text[length])
		length++;
	/* The word's own end makes room for a newline. */
	text[length] = '\n';
	write_file(fd, value, text, length + 1);
	text[length] = 0;
	sys_close(fd);
}

void show_file(const char *path)
{
	struct line line;
	char text[128];
	int fd = open_file(path, O_RDONLY);

	if (fd < 0)
		return;
	sys_close(fd);
	read_word(path, text, sizeof(text));
	start_line(&line);
	add_text(&line, path);
	add_text(&line, ": ");
	add_text(&line, text);
	print_line(&line);
}

u64 count_in(const char *path)
{
	char text[20];
	int fd = open_file(path, O_RDONLY);

	if (fd < 0)
		return 0;
	sys_close(fd);
	read_word(path, text, sizeof(text));
	return number_in(text);
}

int put_count(const char *path, u64 count)
{
	int fd = open_file(path, O_WRONLY);
	struct line line = { 0 };
	long error;
	int done;

	if (fd < 0)
		return 0;
	add_number(&line, count, 1);
	add_text(&line, "\n");
	done = write_file(fd, path, line.text, line.length);
	if (done && (error = sys_fsync(fd)) < 0) {
		say_failed("sync", path, error);
		done = 0;
	}
	sys_close(fd);
	return done;
}

void fill_file(char *value)
{
	u64 bytes = number_in(cut(value, ','));
	/* A device stays as long as it is. */
	int fd = open_file(value, O_WRONLY | (after(value, "/dev/") ? 0 : O_CREAT | O_TRUNC));
	u64 line_number = 0;
	long error = 0;

	if (fd < 0)
		return;
	while (bytes) {
		u64 size = bytes < sizeof(block) ? bytes : sizeof(block);

		line_number = pattern(block, sizeof(block), line_number);
		if (!write_file(fd, value, block, size))
			break;
		bytes -= size;
	}
	/* What waits in memory shows an error only when it is written. */
	if (!bytes && (error = sys_fsync(fd)) < 0)
		say_failed("sync", value, error);
	sys_close(fd);
	if (!bytes && !error)
		say("filled");
}

void sum_file(char *value)
{
	const char *limit = cut(value, ',');
	u64 left = *limit ? number_in(limit) : ~0ul;
	int fd = open_file(value, O_RDONLY);
	u64 state = FNV_START, bytes = 0;
	struct line line;
	long count = 0;

	if (fd < 0)
		return;
	while (left) {
		count = sys_read(fd, block, left < sizeof(block) ? left : sizeof(block));
		if (count <= 0)
			break;
		state = fnv(state, block, count);
		bytes += (u64)count;
		left -= (u64)count;
	}
	sys_close(fd);
	if (left && count < 0) {
		say_failed("read", value, count);
		return;
	}
	start_line(&line);
	add_text(&line, value);
	add_text(&line, ": bytes=");
	add_number(&line, bytes, 1);
	add_text(&line, " fnv=");
	add_number(&line, state, 1);
	print_line(&line);
}

void delete_file(const char *path)
{
	long error = sys_unlink(path);

	if (error < 0)
		say_failed("delete", path, error);
}

void trim(const char *path)
{
	/* The kernel's struct fstrim_range: all of the file system. */
	u64 range[3] = { 0, ~0ul, 0 };
	int fd = open_file(path, O_RDONLY);
	struct line line;
	long error;

	if (fd < 0)
		return;
	error = sys_ioctl(fd, FITRIM, range);
	sys_close(fd);
	if (error < 0) {
		say_failed("trim", path, error);
		return;
	}
	start_line(&line);
	add_text(&line, path);
	add_text(&line, ": trimmed=");
	add_number(&line, range[1], 1);
	print_line(&line);
}

void synchronize(void)
{
	sys_sync();
	say("synced");
}

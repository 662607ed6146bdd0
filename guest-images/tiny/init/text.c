#include "text.h"

void add_text(struct line *line, const char *text)
{
	while (*text && line->length < sizeof(line->text) - 1)
		line->text[line->length++] = *text++;
}

void add_number(struct line *line, u64 number, int digits)
{
	char reversed[20];
	int count = 0;

	do {
		reversed[count++] = (char)('0' + number % 10);
		number /= 10;
	} while (number || count < digits);
	while (count && line->length < sizeof(line->text) - 1)
		line->text[line->length++] = reversed[--count];
}

void start_line(struct line *line)
{
	line->length = 0;
	add_text(line, "mayfly-guest: ");
}

void print_line(struct line *line)
{
	line->text[line->length++] = '\n';
	write_all(line->text, line->length);
}

void say(const char *text)
{
	struct line line;

	start_line(&line);
	add_text(&line, text);
	print_line(&line);
}

void say_of(const char *what, const char *which, const char *text)
{
	struct line line;

	start_line(&line);
	add_text(&line, what);
	add_text(&line, " ");
	add_text(&line, which);
	add_text(&line, ": ");
	add_text(&line, text);
	print_line(&line);
}

void say_failed(const char *doing, const char *what, long error)
{
	struct line line;

	start_line(&line);
	add_text(&line, "cannot ");
	add_text(&line, doing);
	add_text(&line, " ");
	add_text(&line, what);
	add_text(&line, ": errno=");
	add_number(&line, (u64)-error, 1);
	print_line(&line);
}

char *after(const char *word, const char *prefix)
{
	while (*prefix)
		if (*word++ != *prefix++)
			return 0;
	return (char *)word;
}

char *cut(char *value, char separator)
{
	while (*value && *value != separator)
		value++;
	if (*value)
		*value++ = 0;
	return value;
}

int same(const char *a, const char *b)
{
	const char *rest = after(a, b);

	return rest && !*rest;
}

u64 number_in(const char *text)
{
	const u64 limit = 1000000000000000;
	u64 number = 0;

	for (; *text >= '0' && *text <= '9'; text++) {
		number = number * 10 + (u64)(*text - '0');
		if (number > limit)
			return limit;
	}
	return number;
}

void write_all(const char *data, u64 size)
{
	while (size) {
		long written = sys_write(1, data, size);

		if (written <= 0)
			return;
		data += written;
		size -= (u64)written;
	}
}

void read_word(const char *path, char *word, u64 size)
{
	int fd = sys_open(path, O_RDONLY);
	long length = fd < 0 ? -1 : sys_read(fd, word, size - 1);

	if (fd >= 0)
		sys_close(fd);
	if (length <= 0) {
		word[0] = '?';
		length = 1;
	} else if (word[length - 1] == '\n') {
		length--;
	}
	word[length] = 0;
}

u64 pattern(char *data, u64 size, u64 line_number)
{
	enum { LINE = 64 };
	static const char letters[] = "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz"
				      "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz";
	for (char *line = data; line < data + size; line += LINE) {
		const char *first = letters + line_number % 26;
		u64 rest = line_number;

		for (int digit = 7; digit >= 0; digit--) {
			line[digit] = (char)('0' + rest % 10);
			rest /= 10;
		}
		line[8] = ':';
		for (u32 i = 9; i < LINE - 1; i++)
			line[i] = first[i - 9];
		line[LINE - 1] = '\n';
		line_number++;
	}
	return line_number;
}

u64 fnv(u64 state, const char *data, long size)
{
	for (long i = 0; i < size; i++)
		state = (state ^ (unsigned char)data[i]) * 0x100000001b3;
	return state;
}

void drain_console(void)
{
	sys_ioctl(1, TCSBRK, (const void *)1);
}

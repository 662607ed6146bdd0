#include "commands.h"
#include "text.h"

enum { LINE_LIMIT = 1024 };

/* Every byte as it comes: no echo, no editing, no signals, no flow control. */
static void make_raw(struct termios *terminal)
{
	terminal->input &= ~(u32)(INLCR | IGNCR | ICRNL | IXON);
	terminal->local &= ~(u32)(ISIG | ICANON | ECHO | IEXTEN);
	terminal->characters[VMIN] = 1;
	terminal->characters[VTIME] = 0;
	sys_ioctl(0, TCSETS, terminal);
}

static int is_quit(const char *line, u32 length)
{
	return length == 4 && line[0] == 'q' && line[1] == 'u' && line[2] == 'i' && line[3] == 't';
}

/*
 * Answers each line with the same line after "echo: ", until a line "quit".
 * A line ends with CR, LF or CR LF; a longer one than LINE_LIMIT is answered
 * in pieces.
 */
void echo_console(void)
{
	static const char prefix[] = { 'e', 'c', 'h', 'o', ':', ' ' };
	/* The prefix stays in front, so that an answer is one write. */
	static char answer[sizeof(prefix) + LINE_LIMIT + 1];
	static char input[256];
	char *line = answer + sizeof(prefix);
	struct termios cooked, raw;
	u32 length = 0;
	char last = 0;

	for (u32 i = 0; i < sizeof(prefix); i++)
		answer[i] = prefix[i];
	sys_ioctl(0, TCGETS, &cooked);
	raw = cooked;
	make_raw(&raw);
	say("echo ready");
	for (;;) {
		long count = sys_read(0, input, sizeof(input));

		if (count <= 0)
			goto done;
		for (long i = 0; i < count; i++) {
			char byte = input[i];
			int second_half = byte == '\n' && last == '\r';
			int ends = byte == '\r' || byte == '\n';

			last = byte;
			if (second_half)
				continue;
			if (!ends)
				line[length++] = byte;
			if (!ends && length < LINE_LIMIT)
				continue;
			if (is_quit(line, length))
				goto done;
			line[length] = '\n';
			write_all(answer, sizeof(prefix) + length + 1);
			length = 0;
		}
	}
done:
	sys_ioctl(0, TCSETS, &cooked);
	say("echo done");
}

/*
 * Writes exactly `bytes` bytes of the pattern, in which every byte has one right
 * value. The terminal driver puts a CR before each newline.
 */
void write_pattern(u64 bytes)
{
	static char block[1024];
	u64 line_number = 0;

	say("write begins");
	while (bytes) {
		u64 size = bytes < sizeof(block) ? bytes : sizeof(block);

		line_number = pattern(block, sizeof(block), line_number);
		write_all(block, size);
		bytes -= size;
	}
	/* The last line may be cut short. */
	write_all("\n", 1);
	say("write ends");
}

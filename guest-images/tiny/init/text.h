/* Text: building a line, taking a word apart, and printing. */
#ifndef TEXT_H
#define TEXT_H

#include "sys.h"

/* One line of output under construction; what does not fit is left out. */
struct line {
	u32 length;
	char text[252];
};

void add_text(struct line *line, const char *text);
/* In decimal, with leading zeros up to `digits` digits. */
void add_number(struct line *line, u64 number, int digits);
/* Writes the line and a newline to the console in one system call. */
void print_line(struct line *line);
/* Prints "mayfly-guest: " and the text as a line. */
void say(const char *text);
/* Prints "WHAT WHICH: TEXT". */
void say_of(const char *what, const char *which, const char *text);
/* Prints "cannot DOING WHAT: errno=N". */
void say_failed(const char *doing, const char *what, long error);
/* Starts a line with "mayfly-guest: ". */
void start_line(struct line *line);

/* What follows `prefix` in `word`, or null if the word starts otherwise. */
char *after(const char *word, const char *prefix);
/* Ends `value` at the first `separator` and returns what follows it, empty if there
 * is none. */
char *cut(char *value, char separator);
/* Whether the two are equal. */
int same(const char *a, const char *b);
/* The decimal number at the start of `text`, at most 10^15. */
u64 number_in(const char *text);

/* Writes all of it to the console. */
void write_all(const char *data, u64 size);
/* Reads a small file as a string without its last newline; "?" if it cannot. */
void read_word(const char *path, char *word, u64 size);
/*
 * Fills `size` bytes, a multiple of 64, with lines of 64 bytes from line number
 * `line_number` on, and returns the next line's number. A line is its number in
 * eight digits, a colon, 54 letters of the alphabet starting at the line number,
 * and a newline.
 */
u64 pattern(char *data, u64 size, u64 line_number);
/* FNV-1a with 64 bits over some more bytes. */
u64 fnv(u64 state, const char *data, long size);
#define FNV_START 0xcbf29ce484222325ul
/* Waits until the UART has sent what was written. */
void drain_console(void);

#endif

/* What the kernel command line can ask of the guest; see README.md. */
#ifndef COMMANDS_H
#define COMMANDS_H

#include "sys.h"

/* Writes one byte to an I/O port; returns zero, or -errno. */
long write_port(long port, unsigned char value);

/* Does what one word of the command line asks, if it is for us. */
void run_command(const char *word);

/* Ends the machine. */
void __attribute__((noreturn)) power_off(void);

/* spin.c: one counting process on each CPU for some seconds. */
void spin(u64 seconds);
/* console.c: the commands that exercise the terminal driver. */
void echo_console(void);
void write_pattern(u64 bytes);
/* shell.c: an interactive shell; returns when it ends. */
void run_shell(void);

#endif

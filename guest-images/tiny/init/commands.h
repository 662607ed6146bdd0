/* What the kernel command line can ask of the guest; see README.md. */
#ifndef COMMANDS_H
#define COMMANDS_H

#include "sys.h"

/* Writes one byte to an I/O port; returns zero, or -errno. */
long write_port(long port, unsigned char value);

/* Does what one word of the command line asks, if it is for us; may take the word
 * apart. */
void run_command(char *word);

/* Set when the root is a disk: it is written back before the machine ends. */
extern int root_on_disk;

/* Ends the machine. */
void __attribute__((noreturn)) power_off(void);

/* spin.c: one counting process on each CPU for some seconds. */
void spin(u64 seconds);
/* console.c: the commands that exercise the terminal driver. */
void echo_console(void);
void write_pattern(u64 bytes);
/* files.c: files and devices. A value is PATH or PATH,VALUE. */
void put_file(char *value);
void show_file(const char *path);
/* A number kept in a file or a device that is there; one that holds none holds 0. */
u64 count_in(const char *path);
/* Writes it to stable storage; whether that is done. */
int put_count(const char *path, u64 count);
void fill_file(char *value);
void sum_file(char *value);
void delete_file(const char *path);
void trim(const char *path);
void synchronize(void);
/* button.c: waits until the machine's power button is pressed. */
void wait_for_power_button(void);
/* kernel.c: where the kernel is, and what it warned of. */
void print_kernel_address(void);
void print_kernel_warnings(void);
/* net.c: whether the word, without "mayfly.", was one about the network, and is done. */
int run_network_command(char *command);
/* shell.c: an interactive shell; returns when it ends. */
void run_shell(void);

#endif

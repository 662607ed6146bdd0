#include "commands.h"
#include "text.h"

enum { DEBUG_EXIT_PORT = 0xf4 };

/* Distributions' kernels have no /dev/port, but let us write to a port ourselves. */
static long out_byte(long port, unsigned char value)
{
	long refused = sys_ioperm(port, 1);

	if (refused)
		return refused;
	__asm__ volatile("outb %b0, %w1" : : "a"(value), "d"(port));
	return 0;
}

long write_port(long port, unsigned char value)
{
	int fd = sys_open("/dev/port", O_RDWR);
	long written;

	if (fd < 0)
		return out_byte(port, value);
	written = sys_pwrite(fd, &value, 1, port);
	sys_close(fd);
	return written < 0 ? written : 0;
}

/* Ends the VM with a status of our choice, where the machine has the port. */
static void debug_exit(u64 status)
{
	drain_console();
	write_port(DEBUG_EXIT_PORT, (unsigned char)status);
	say("no debug-exit port at 0xf4");
}

static void __attribute__((noreturn)) hang(void)
{
	for (;;)
		sys_pause();
}

int root_on_disk;

static void reboot_with(long command)
{
	if (root_on_disk) {
		sys_sync();
		sys_remount_root_read_only();
	}
	drain_console();
	sys_reboot(command);
}

void power_off(void)
{
	/*
	 * A kernel that cannot power off would halt instead and never end the
	 * VM; a restart ends it as well.
	 */
	if (sys_access("/sys/firmware/acpi") == 0)
		reboot_with(REBOOT_POWER_OFF);
	reboot_with(REBOOT_RESTART);
	hang();
}

/* Restarts as often as the second half of the word says; a file or a device keeps count. */
static void reboot_until(char *value)
{
	u64 most = number_in(cut(value, ','));
	u64 count = count_in(value);
	struct line line;

	start_line(&line);
	add_text(&line, value);
	add_text(&line, ": restarts=");
	add_number(&line, count, 1);
	add_text(&line, " of ");
	add_number(&line, most, 1);
	print_line(&line);
	if (count >= most || !put_count(value, count + 1))
		return;
	reboot_with(REBOOT_RESTART);
}

/* The wall clock, in seconds since 1970. */
static void print_date(void)
{
	struct timespec now;
	struct line line;

	sys_clock(CLOCK_REALTIME, &now);
	start_line(&line);
	add_text(&line, "epoch=");
	add_number(&line, (u64)now.seconds, 1);
	print_line(&line);
}

/* What the cheapest system call costs. */
static void time_syscalls(u64 count)
{
	struct timespec start, end;
	struct line line;
	u64 elapsed;

	sys_clock(CLOCK_MONOTONIC, &start);
	for (u64 i = 0; i < count; i++)
		sys_getppid();
	sys_clock(CLOCK_MONOTONIC, &end);
	elapsed = (u64)((end.seconds - start.seconds) * 1000000000 + end.nanoseconds -
			start.nanoseconds);
	start_line(&line);
	add_text(&line, "syscalls=");
	add_number(&line, count, 1);
	add_text(&line, " ns_per_call=");
	add_number(&line, count ? elapsed / count : 0, 1);
	print_line(&line);
}

void run_command(char *word)
{
	char *command = after(word, "mayfly.");
	char *value;

	if (!command)
		return;
	if ((value = after(command, "exit=")))
		debug_exit(number_in(value));
	else if (same(command, "panic")) {
		/* The kernel panics when process 1 ends. */
		drain_console();
		sys_exit(1);
	} else if (same(command, "reboot"))
		reboot_with(REBOOT_RESTART);
	else if ((value = after(command, "reboots=")))
		reboot_until(value);
	else if (same(command, "halt"))
		reboot_with(REBOOT_HALT);
	else if (same(command, "hang")) {
		say("hanging");
		hang();
	} else if ((value = after(command, "spin=")))
		spin(number_in(value));
	else if (same(command, "wait-power-button"))
		wait_for_power_button();
	else if (same(command, "kernel-address"))
		print_kernel_address();
	else if (same(command, "kernel-warnings"))
		print_kernel_warnings();
	else if (same(command, "echo"))
		echo_console();
	else if ((value = after(command, "write=")))
		write_pattern(number_in(value));
	else if (same(command, "date"))
		print_date();
	else if ((value = after(command, "syscalls=")))
		time_syscalls(number_in(value));
	else if ((value = after(command, "put=")))
		put_file(value);
	else if ((value = after(command, "show=")))
		show_file(value);
	else if ((value = after(command, "fill=")))
		fill_file(value);
	else if ((value = after(command, "sum=")))
		sum_file(value);
	else if ((value = after(command, "delete=")))
		delete_file(value);
	else if ((value = after(command, "trim=")))
		trim(value);
	else if (same(command, "sync"))
		synchronize();
	else if (same(command, "shell"))
		run_shell();
	else if (!run_network_command(command)) {
		struct line line;

		start_line(&line);
		add_text(&line, "unknown command ");
		add_text(&line, word);
		print_line(&line);
	}
}

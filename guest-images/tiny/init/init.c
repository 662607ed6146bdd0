/*
 * Process 1 of the tiny guest.
 *
 * It says that userspace runs, prints one line of facts, does what the kernel
 * command line asks, and powers the machine off. Every kernel instruction may
 * be interpreted by the host at half a microsecond, so it makes few and cheap
 * system calls.
 */
#include "commands.h"
#include "text.h"

enum {
	/* The boot timer: a byte 123 written here means "userspace runs". */
	BOOT_TIMER_PORT = 0x3f0,
	USERSPACE_RUNS = 123,
};

/* The kernel's COMMAND_LINE_SIZE on x86 is 2048. */
static char command_line[2049];

static u64 timestamp_counter(void)
{
	u32 low, high;

	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
	return (u64)high << 32 | low;
}

static u32 online_cpus(void)
{
	u64 mask[128];
	long bytes = sys_getaffinity(mask, sizeof(mask));
	u32 count = 0;

	for (long word = 0; word < bytes / 8; word++)
		for (u64 bits = mask[word]; bits; bits &= bits - 1)
			count++;
	return count;
}

static void print_facts(u64 tsc)
{
	struct utsname names;
	struct sysinfo info;
	struct timespec uptime;
	char source[32];
	struct line line;

	start_line(&line);
	sys_uname(&names);
	add_text(&line, "kernel=");
	add_text(&line, names.release);
	sys_sysinfo(&info);
	add_text(&line, " memory=");
	add_number(&line, info.total_ram * info.unit >> 20, 1);
	add_text(&line, "M cpus=");
	add_number(&line, online_cpus(), 1);
	read_word("/sys/devices/system/clocksource/clocksource0/current_clocksource", source,
		  sizeof(source));
	add_text(&line, " clocksource=");
	add_text(&line, source);
	sys_clock(CLOCK_BOOTTIME, &uptime);
	add_text(&line, " uptime=");
	add_number(&line, (u64)uptime.seconds, 1);
	add_text(&line, ".");
	add_number(&line, (u64)uptime.nanoseconds / 10000000, 2);
	add_text(&line, " tsc=");
	add_number(&line, tsc, 1);
	print_line(&line);
}

/* Whether a word of the command line starts so. */
static int has_option(const char *name)
{
	const char *word = command_line;

	while (!after(word, name)) {
		while (*word && *word != ' ')
			word++;
		if (!*word++)
			return 0;
	}
	return 1;
}

/* Runs the commands among the words, in the order written. */
static void run_command_line(void)
{
	char *word = command_line;

	while (*word) {
		char *end = word;

		while (*end && *end != ' ')
			end++;
		if (*end)
			*end++ = 0;
		run_command(word);
		word = end;
	}
}

void __attribute__((noreturn, used)) init_main(void)
{
	u64 tsc = timestamp_counter();

	write_port(BOOT_TIMER_PORT, USERSPACE_RUNS);
	sys_mount("proc", "/proc");
	sys_mount("sysfs", "/sys");
	print_facts(tsc);
	read_word("/proc/cmdline", command_line, sizeof(command_line));
	root_on_disk = has_option("root=");
	run_command_line();
	power_off();
}

/* The kernel starts us with the stack aligned to 16; a call expects that too. */
__asm__(".globl _start\n"
	"_start:\n\t"
	"xor %ebp, %ebp\n\t"
	"call init_main\n");

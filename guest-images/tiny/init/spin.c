#include "commands.h"
#include "text.h"

enum { MAX_CPUS = 64 };

/* One process that counts on its CPU, with the stack it runs on. */
static struct spinner {
	u32 cpu;
	u32 found_cpu;
	volatile u64 count;
	/* Keeps each counter in a cache line of its own, too. */
	char stack[1024 - 16];
} __attribute__((aligned(64))) spinners[MAX_CPUS];

static volatile int stop;

static void count_until_stopped(void *argument)
{
	struct spinner *self = argument;
	u64 mask = 1UL << self->cpu;
	u64 count = 0;

	sys_setaffinity(&mask, sizeof(mask));
	while (!stop)
		self->count = ++count;
	sys_getcpu(&self->found_cpu);
	sys_exit(0);
}

static void print_count(const struct spinner *spinner)
{
	struct line line;

	start_line(&line);
	add_text(&line, "cpu ");
	add_number(&line, spinner->found_cpu, 1);
	add_text(&line, " counted ");
	add_number(&line, spinner->count, 1);
	print_line(&line);
}

void spin(u64 seconds)
{
	struct timespec time = { (long)seconds, 0 };
	u64 online[16] = { 0 };
	u32 started = 0;

	if (sys_getaffinity(online, sizeof(online)) < 0)
		return;
	for (u32 cpu = 0; cpu < MAX_CPUS; cpu++) {
		struct spinner *spinner = &spinners[started];

		if (!(online[0] >> cpu & 1))
			continue;
		spinner->cpu = cpu;
		if (spawn(0, count_until_stopped, spinner, spinner + 1) > 0)
			started++;
	}
	/* The timer must take a CPU back from a process that never yields it. */
	sys_nanosleep(&time);
	stop = 1;
	for (u32 i = 0; i < started; i++)
		sys_wait();
	for (u32 i = 0; i < started; i++)
		print_count(&spinners[i]);
	stop = 0;
}

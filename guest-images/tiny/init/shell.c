#include "commands.h"
#include "text.h"

/* The path of the terminal behind /dev/console, which itself cannot be a
 * controlling terminal; the console of the list's last entry. */
static void console_path(char *path, u64 size)
{
	static const char directory[] = "/dev/";
	char names[64];
	const char *name = names;
	struct line line = { 0 };

	read_word("/sys/class/tty/console/active", names, sizeof(names));
	for (const char *c = names; *c; c++)
		if (*c == ' ')
			name = c + 1;
	add_text(&line, directory);
	add_text(&line, name);
	for (u64 i = 0; i < size; i++)
		path[i] = i < line.length ? line.text[i] : 0;
}

static void become_shell(void *unused)
{
	static const char *const arguments[] = { "-sh", 0 };
	static const char *const environment[] = {
		"PATH=/bin:/sbin", "HOME=/root",     "TERM=vt102",
		"USER=root",       "PS1=mayfly:\\w# ", 0,
	};
	char path[32];
	int terminal;

	(void)unused;
	console_path(path, sizeof(path));
	sys_setsid();
	terminal = sys_open(path, O_RDWR);
	if (terminal >= 0) {
		sys_ioctl(terminal, TIOCSCTTY, 0);
		for (int fd = 0; fd < 3; fd++)
			sys_dup2(terminal, fd);
	}
	sys_chdir("/root");
	sys_execve("/bin/sh", arguments, environment);
	say("there is no /bin/sh in this initramfs; boot with shell.cpio");
	sys_exit(127);
}

void run_shell(void)
{
	static char stack[4096];
	long child;

	sys_mount("devtmpfs", "/dev");
	sys_mkdir("/dev/pts");
	sys_mount("devpts", "/dev/pts");
	sys_mkdir("/tmp");
	sys_mount("tmpfs", "/tmp");
	say("a shell; 'exit' powers the machine off");
	child = spawn(CLONE_VFORK, become_shell, 0, stack + sizeof(stack));
	/* Orphans are ours to reap as well. */
	while (child > 0 && sys_wait() != child)
		;
}

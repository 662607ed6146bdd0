/*
 * The system calls the init uses, straight to the kernel: there is no libc.
 *
 * Each returns what the kernel returns: zero or more on success, -errno on error.
 */
#ifndef SYS_H
#define SYS_H

typedef unsigned long u64;
typedef unsigned int u32;

struct timespec {
	long seconds;
	long nanoseconds;
};

/* The kernel's struct termios (asm-generic/termbits.h). */
struct termios {
	u32 input, output, control, local;
	unsigned char line;
	unsigned char characters[19];
};

/* The kernel's struct pollfd. */
struct pollfd {
	int fd;
	short events, happened;
};

/* The kernel's struct sysinfo, as far as it is read here. */
struct sysinfo {
	long uptime;
	u64 loads[3];
	u64 total_ram, free_ram, shared_ram, buffer_ram, total_swap, free_swap;
	unsigned short processes, pad;
	u64 total_high, free_high;
	u32 unit;
	u32 reserve;
};

/* The kernel's struct new_utsname. */
struct utsname {
	char system[65], node[65], release[65], version[65], machine[65], domain[65];
};

enum {
	O_RDONLY = 0,
	O_WRONLY = 1,
	O_RDWR = 2,
	O_CREAT = 0100,
	O_TRUNC = 01000,
	O_NONBLOCK = 04000,

	ENOENT = 2,

	CLOCK_REALTIME = 0,
	CLOCK_MONOTONIC = 1,
	CLOCK_BOOTTIME = 7,

	TCGETS = 0x5401,
	TCSETS = 0x5402,
	TCSBRK = 0x5409,
	TIOCSCTTY = 0x540e,

	/* struct termios: input */
	INLCR = 0x40,
	IGNCR = 0x80,
	ICRNL = 0x100,
	IXON = 0x400,
	/* struct termios: local */
	ISIG = 0x1,
	ICANON = 0x2,
	ECHO = 0x8,
	IEXTEN = 0x8000,
	/* struct termios: characters */
	VTIME = 5,
	VMIN = 6,

	SIGCHLD = 17,
	CLONE_VM = 0x100,
	CLONE_VFORK = 0x4000,

	POLLIN = 1,
	SHUT_WR = 1,
};

/* Beyond what an int can be. */
#define FITRIM 0xc0185879ul

/* The commands of reboot(2). */
#define REBOOT_RESTART 0x01234567L
#define REBOOT_HALT 0xcdef0123L
#define REBOOT_POWER_OFF 0x4321fedcL

static inline long syscall5(long number, long a, long b, long c, long d, long e)
{
	long result;
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
			 : "rcx", "r11", "memory");
	return result;
}

static inline long syscall6(long number, long a, long b, long c, long d, long e, long f)
{
	long result;
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}

static inline long syscall3(long number, long a, long b, long c)
{
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c)
			 : "rcx", "r11", "memory");
	return result;
}

static inline long sys_read(int fd, void *data, u64 size)
{
	return syscall3(0, fd, (long)data, (long)size);
}

static inline long sys_write(int fd, const void *data, u64 size)
{
	return syscall3(1, fd, (long)data, (long)size);
}

static inline int sys_open(const char *path, int flags)
{
	return (int)syscall3(2, (long)path, flags, 0644);
}

static inline long sys_close(int fd)
{
	return syscall3(3, fd, 0, 0);
}

static inline long sys_poll(struct pollfd *polls, u64 count, int milliseconds)
{
	return syscall3(7, (long)polls, (long)count, milliseconds);
}

static inline long sys_ioctl(int fd, u64 request, const void *argument)
{
	return syscall3(16, fd, (long)request, (long)argument);
}

static inline long sys_pwrite(int fd, const void *data, u64 size, long offset)
{
	return syscall5(18, fd, (long)data, (long)size, offset, 0);
}

static inline long sys_access(const char *path)
{
	return syscall3(21, (long)path, 0, 0);
}

static inline long sys_dup2(int from, int to)
{
	return syscall3(33, from, to, 0);
}

static inline long sys_pause(void)
{
	return syscall3(34, 0, 0, 0);
}

static inline long sys_nanosleep(const struct timespec *time)
{
	return syscall3(35, (long)time, 0, 0);
}

static inline int sys_socket(int family, int type, int protocol)
{
	return (int)syscall3(41, family, type, protocol);
}

static inline long sys_connect(int fd, const void *address, u64 size)
{
	return syscall3(42, fd, (long)address, (long)size);
}

/* Whoever it is that connects. */
static inline int sys_accept(int fd)
{
	return (int)syscall3(43, fd, 0, 0);
}

static inline long sys_send_to(int fd, const void *data, u64 size, const void *address,
			       u32 address_size)
{
	return syscall6(44, fd, (long)data, (long)size, 0, (long)address, address_size);
}

static inline long sys_receive_from(int fd, void *data, u64 size, void *address,
				    u32 *address_size)
{
	return syscall6(45, fd, (long)data, (long)size, 0, (long)address, (long)address_size);
}

static inline long sys_shutdown(int fd, int how)
{
	return syscall3(48, fd, how, 0);
}

static inline long sys_bind(int fd, const void *address, u64 size)
{
	return syscall3(49, fd, (long)address, (long)size);
}

static inline long sys_listen(int fd, int backlog)
{
	return syscall3(50, fd, backlog, 0);
}

static inline long sys_execve(const char *path, const char *const *arguments,
			      const char *const *environment)
{
	return syscall3(59, (long)path, (long)arguments, (long)environment);
}

static inline void __attribute__((noreturn)) sys_exit(int status)
{
	for (;;)
		syscall3(60, status, 0, 0);
}

/* Waits for any child to end and returns its process id. */
static inline long sys_wait(void)
{
	return syscall5(61, -1, 0, 0, 0, 0);
}

static inline long sys_uname(struct utsname *names)
{
	return syscall3(63, (long)names, 0, 0);
}

static inline long sys_fsync(int fd)
{
	return syscall3(74, fd, 0, 0);
}

static inline long sys_chdir(const char *path)
{
	return syscall3(80, (long)path, 0, 0);
}

static inline long sys_mkdir(const char *path)
{
	return syscall3(83, (long)path, 0755, 0);
}

static inline long sys_unlink(const char *path)
{
	return syscall3(87, (long)path, 0, 0);
}

static inline long sys_sysinfo(struct sysinfo *info)
{
	return syscall3(99, (long)info, 0, 0);
}

static inline long sys_getppid(void)
{
	return syscall3(110, 0, 0, 0);
}

static inline long sys_setsid(void)
{
	return syscall3(112, 0, 0, 0);
}

static inline long sys_mount(const char *type, const char *target)
{
	return syscall5(165, (long)type, (long)target, (long)type, 0, 0);
}

static inline void sys_sync(void)
{
	syscall3(162, 0, 0, 0);
}

/* MS_REMOUNT | MS_RDONLY: a clean file system is left behind. */
static inline long sys_remount_root_read_only(void)
{
	return syscall5(165, 0, (long)"/", 0, 0x20 | 1, 0);
}

static inline long sys_reboot(long command)
{
	return syscall3(169, 0xfee1dead, 672274793, command);
}

/* Lets this process use `count` I/O ports from `port` on. */
static inline long sys_ioperm(long port, long count)
{
	return syscall3(173, port, count, 1);
}

/* Sets the CPUs this process may run on. */
static inline long sys_setaffinity(const u64 *mask, u64 bytes)
{
	return syscall3(203, 0, (long)bytes, (long)mask);
}

/* Reads the online CPUs this process may run on; returns the bytes filled. */
static inline long sys_getaffinity(u64 *mask, u64 bytes)
{
	return syscall3(204, 0, (long)bytes, (long)mask);
}

static inline long sys_clock(int clock, struct timespec *time)
{
	return syscall3(228, clock, (long)time, 0);
}

static inline long sys_getcpu(u32 *cpu)
{
	return syscall3(309, (long)cpu, 0, 0);
}

/*
 * Starts a process that shares our memory (hence no page tables to copy, which
 * is what makes fork dear) and calls entry(argument) on the stack that ends at
 * `stack_end`. The entry must end with sys_exit.
 */
static inline long spawn(int flags, void (*entry)(void *), void *argument, void *stack_end)
{
	void **stack = stack_end;
	long result;

	*--stack = argument;
	*--stack = (void *)entry;
	__asm__ volatile("xor %%r10d, %%r10d\n\t"
			 "xor %%r8d, %%r8d\n\t"
			 "syscall\n\t"
			 "test %%rax, %%rax\n\t"
			 "jnz 1f\n\t"
			 "pop %%rax\n\t"
			 "pop %%rdi\n\t"
			 "call *%%rax\n\t"
			 "ud2\n"
			 "1:"
			 : "=a"(result)
			 : "a"(56L), "D"((long)(flags | CLONE_VM | SIGCHLD)), "S"(stack), "d"(0L)
			 : "rcx", "r8", "r10", "r11", "memory");
	return result;
}

#endif

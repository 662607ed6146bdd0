// Runs a command and prints how far the TSC went meanwhile. On an emulated host
// that counts instructions (QEMU's -icount with shift 0) that is the number of
// instructions that the host, the command and its guests executed, idle time
// included as if it were instructions. The second number, from the time that the
// kernel charges the command with, leaves idle time out: one is a nanosecond there
// too, in steps of a microsecond.

#include <stdio.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>
#include <x86intrin.h>

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: count COMMAND...\n");
        return 2;
    }
    unsigned long long before = __rdtsc();
    pid_t child = fork();
    if (child == 0) {
        execvp(argv[1], argv + 1);
        perror(argv[1]);
        _exit(127);
    }
    int status;
    struct rusage usage;
    if (child < 0 || wait4(child, &status, 0, &usage) < 0) {
        perror("count");
        return 2;
    }
    unsigned long long after = __rdtsc();
    struct timeval charged;
    timeradd(&usage.ru_utime, &usage.ru_stime, &charged);
    printf("\ninstructions: %llu\n", after - before);
    printf("charged: %llu\n", (charged.tv_sec * 1000000ULL + charged.tv_usec) * 1000);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

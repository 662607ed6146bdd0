// Runs a command and prints how far the TSC went meanwhile. On an emulated host
// that counts instructions (QEMU's -icount with shift 0) that is the number of
// instructions that the host, the command and its guests executed, idle time
// included as if it were instructions.

#include <stdio.h>
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
    if (child < 0 || waitpid(child, &status, 0) < 0) {
        perror("count");
        return 2;
    }
    unsigned long long after = __rdtsc();
    printf("\ninstructions: %llu\n", after - before);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

// The floor under Mayfly's start: the KVM calls that a machine with a split
// irqchip needs, and nothing else. Starts a bare guest (an ELF file) at its
// 64-bit entry, prints what it writes to the serial port, and ends when it
// resets the machine. No file is checked, no error mended, no second thread made.
//
// usage: floor GUEST MIB

#include <elf.h>
#include <err.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

// Guest-physical addresses below the guest's own at 1 MiB.
enum { GDT = 0x1000, ZERO_PAGE = 0x2000, PML4 = 0x3000, PDPT = 0x4000, PD = 0x5000 };
enum { PORT_SERIAL = 0x3f8, PORT_SERIAL_STATUS = 0x3fd, PORT_I8042 = 0x64 };
enum { TRANSMITTER_EMPTY = 0x60, RESET = 0xfe };
enum { CPUID_ENTRIES = 256, IOAPIC_PINS = 24 };

static int kvm_call(int fd, unsigned long request, const void *argument, const char *name) {
    int result = ioctl(fd, request, argument);
    if (result < 0)
        err(1, "%s", name);
    return result;
}
#define CALL(fd, request, argument) kvm_call(fd, request, (void *)(argument), #request)

// Puts the guest's segments where they belong and returns its entry.
static uint64_t load(const char *path, uint8_t *memory) {
    static uint8_t head[4096];
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0 || read(file, head, sizeof head) < (ssize_t)sizeof(Elf64_Ehdr))
        err(1, "%s", path);
    const Elf64_Ehdr *elf = (void *)head;
    const Elf64_Phdr *segment = (void *)(head + elf->e_phoff);
    for (int i = 0; i < elf->e_phnum; i++, segment++) {
        uint8_t *place = memory + segment->p_paddr;
        if (segment->p_type == PT_LOAD &&
            pread(file, place, segment->p_filesz, segment->p_offset) != (ssize_t)segment->p_filesz)
            err(1, "%s", path);
    }
    return elf->e_entry;
}

// The first GiB mapped to itself in pages of 2 MiB.
static void write_page_tables(uint8_t *memory) {
    *(uint64_t *)(memory + PML4) = PDPT | 3;
    *(uint64_t *)(memory + PDPT) = PD | 3;
    for (uint64_t i = 0; i < 512; i++)
        ((uint64_t *)(memory + PD))[i] = i << 21 | 0x83;
}

// 64-bit mode with paging, as the Linux boot protocol wants it.
static void set_registers(int vcpu, uint8_t *memory, uint64_t entry) {
    struct kvm_segment code = {.limit = ~0u, .selector = 0x10, .type = 11,
                               .present = 1, .s = 1, .l = 1, .g = 1};
    struct kvm_segment data = {.limit = ~0u, .selector = 0x18, .type = 3,
                               .present = 1, .db = 1, .s = 1, .g = 1};
    static const uint64_t gdt[] = {0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff};
    memcpy(memory + GDT, gdt, sizeof gdt);
    struct kvm_sregs sregs;
    CALL(vcpu, KVM_GET_SREGS, &sregs);
    sregs.cs = code;
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
    sregs.gdt = (struct kvm_dtable){.base = GDT, .limit = sizeof gdt - 1};
    sregs.cr0 = 0x80000011;
    sregs.cr3 = PML4;
    sregs.cr4 = 0x20;
    sregs.efer = 0x500;
    CALL(vcpu, KVM_SET_SREGS, &sregs);
    struct kvm_regs regs = {.rip = entry, .rsi = ZERO_PAGE, .rflags = 2};
    CALL(vcpu, KVM_SET_REGS, &regs);
}

// Serves port accesses until the guest resets the machine, then prints.
static void run_to_reset(int vcpu, struct kvm_run *run) {
    static char text[4096];
    size_t length = 0;
    for (;;) {
        CALL(vcpu, KVM_RUN, 0);
        if (run->exit_reason != KVM_EXIT_IO)
            errx(1, "exit %u", run->exit_reason);
        uint8_t *data = (uint8_t *)run + run->io.data_offset;
        if (run->io.direction == KVM_EXIT_IO_IN)
            *data = run->io.port == PORT_SERIAL_STATUS ? TRANSMITTER_EMPTY : 0xff;
        else if (run->io.port == PORT_SERIAL && length < sizeof text)
            text[length++] = *data;
        else if (run->io.port == PORT_I8042 && *data == RESET)
            break;
    }
    if (write(STDOUT_FILENO, text, length) != (ssize_t)length)
        err(1, "stdout");
}

int main(int argc, char **argv) {
    if (argc != 3)
        errx(2, "usage: floor GUEST MIB");
    size_t size = strtoul(argv[2], NULL, 10) << 20;
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (kvm < 0)
        err(1, "/dev/kvm");
    int vm = CALL(kvm, KVM_CREATE_VM, 0);
    struct kvm_enable_cap split = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args = {IOAPIC_PINS}};
    CALL(vm, KVM_ENABLE_CAP, &split);
    uint8_t *memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        err(1, "mmap");
    struct kvm_userspace_memory_region slot = {.memory_size = size,
                                               .userspace_addr = (uintptr_t)memory};
    CALL(vm, KVM_SET_USER_MEMORY_REGION, &slot);
    int vcpu = CALL(vm, KVM_CREATE_VCPU, 0);
    struct kvm_run *run = mmap(NULL, CALL(kvm, KVM_GET_VCPU_MMAP_SIZE, 0),
                               PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    if (run == MAP_FAILED)
        err(1, "mmap of the vCPU");
    static struct {
        struct kvm_cpuid2 head;
        struct kvm_cpuid_entry2 entries[CPUID_ENTRIES];
    } cpuid = {.head.nent = CPUID_ENTRIES};
    CALL(kvm, KVM_GET_SUPPORTED_CPUID, &cpuid);
    CALL(vcpu, KVM_SET_CPUID2, &cpuid);
    write_page_tables(memory);
    set_registers(vcpu, memory, load(argv[1], memory));
    run_to_reset(vcpu, run);
    return 0;
}

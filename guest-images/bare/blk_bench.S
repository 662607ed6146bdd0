/* The measuring guest of tests/bench/disk.rs: a load on the disk, driven from user
 * mode, where every host runs guest code natively, by polling the ring. The
 * parameters are those of blk_load.inc. */
.include "guest.inc"
.include "user.inc"
.include "blk_load.inc"

main:
    OWN_TABLES
    call load_init
    call map_user
    call open_ports
    lea load, %rdi
    mov $0x3002, %esi           /* IOPL 3 */
    jmp enter_user

.set wait_used, vq_poll

/* The measuring guest of tests/bench/net.rs: the load of net_load.inc, driven from user
 * mode, where every host runs guest code natively, by polling the rings. */
.include "guest.inc"
.include "user.inc"
.include "net_load.inc"

main:
    OWN_TABLES
    call load_init
    call map_user
    call open_ports
    lea load, %rdi
    mov $0x3002, %esi           /* IOPL 3 */
    jmp enter_user

.set wait_queue, nq_poll

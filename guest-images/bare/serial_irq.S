/* The serial port by interrupts in both directions: announces itself from the
 * transmitter's interrupt, then echoes lines until one says "quit". */
.include "guest.inc"
.include "interrupts.inc"

.set VECTOR, 0x34

main:
    OWN_TABLES
    call interrupts_init
    call lapic_init
    GATE VECTOR, serial_interrupt
    mov $4, %edi
    mov $VECTOR, %esi           /* edge, active high, fixed */
    call ioapic_route

    mov $PORT_SERIAL + 3, %edx
    mov $3, %al                 /* 8N1 */
    out %al, %dx
    mov $PORT_SERIAL + 4, %edx
    mov $0xb, %al               /* DTR, RTS, OUT2: the interrupt's gate */
    out %al, %dx

    lea text_ready, %rdi
    call send
    cmpq $0, sent_interrupts
    CHECK_IF ne, "the transmitter interrupts"

next_line:
    call receive_line
    lea text_echo, %rdi
    call send
    lea line, %rdi
    call send
    cmpl $0x74697571, line      /* "quit" */
    jne next_line
    cmpq $0, received_interrupts
    CHECK_IF ne, "the receiver interrupts"
    mov $PORT_SERIAL + 1, %edx
    xor %eax, %eax
    out %al, %dx
    ret

/* RDI: a text, which the interrupt handler sends. Waits until it is out. */
send:
    cli
    mov %rdi, sending
    mov $PORT_SERIAL + 1, %edx
    mov $3, %al                 /* received data, transmitter empty */
    out %al, %dx
1:  cli
    cmpq $0, sending
    je 2f
    sti
    hlt
    jmp 1b
2:  ret

/* Waits for a line; its end becomes "\n\0". */
receive_line:
    movq $0, line_length
1:  cli
    mov ring_read, %rcx
    cmp ring_written, %rcx
    jne 2f
    sti
    hlt
    jmp 1b
2:  mov ring(%rcx), %al
    inc %ecx
    and $0xffff, %ecx
    mov %rcx, ring_read
    cmp $'\r', %al
    jne 3f
    mov $'\n', %al
3:  mov line_length, %rcx
    cmp $250, %rcx
    jae 4f
    mov %al, line(%rcx)
    movb $0, line + 1(%rcx)
    incq line_length
4:  cmp $'\n', %al
    jne 1b
    ret

serial_interrupt:
    push %rax
    push %rcx
    push %rdx
    push %rsi
1:  mov $PORT_SERIAL + 2, %edx
    in %dx, %al
    test $1, %al                /* none pending */
    jnz 9f
    and $0xe, %al
    cmp $2, %al
    je 5f
    cmp $4, %al
    je 2f
    cmp $0xc, %al
    je 2f
    mov $PORT_SERIAL + 5, %edx  /* line or modem status: reading clears it */
    in %dx, %al
    inc %edx
    in %dx, %al
    jmp 1b
2:  incq received_interrupts
3:  mov $PORT_SERIAL + 5, %edx
    in %dx, %al
    test $1, %al
    jz 1b
    mov $PORT_SERIAL, %edx
    in %dx, %al
    mov ring_written, %rcx
    mov %al, ring(%rcx)
    inc %ecx
    and $0xffff, %ecx
    mov %rcx, ring_written
    jmp 3b
5:  incq sent_interrupts
    mov sending, %rsi
    test %rsi, %rsi
    jz 6f
    mov (%rsi), %al
    test %al, %al
    jz 6f
    incq sending
    mov $PORT_SERIAL, %edx
    out %al, %dx
    jmp 1b
6:  movq $0, sending
    mov $PORT_SERIAL + 1, %edx
    mov $1, %al
    out %al, %dx
    jmp 1b
9:  EOI
    pop %rsi
    pop %rdx
    pop %rcx
    pop %rax
    iretq

.section .rodata
text_ready: .asciz "ready\n"
text_echo: .asciz "echo: "
.data
.balign 8
sending: .quad 0
sent_interrupts: .quad 0
received_interrupts: .quad 0
ring_read: .quad 0
ring_written: .quad 0
line_length: .quad 0
.bss
line: .skip 256
ring: .skip 65536

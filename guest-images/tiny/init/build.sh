#!/bin/bash
# Compiles the init and packs it as an initramfs.
#
#   build.sh DIR [BUSYBOX]
#
# writes DIR/init, the program, DIR/init.cpio and, if a static busybox is given, DIR/shell.cpio, which
# has it as its shell. Needs gcc, and neither root nor cpio.
set -euo pipefail
export LC_ALL=C

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=$1
busybox=${2:-}
work=$(mktemp -d "$out/.init.XXXXXX")
trap 'rm -rf "$work"' EXIT

# One small segment, so that it takes few page faults to run.
gcc -Os -Wall -Wextra -ffreestanding -fno-builtin -static -nostdlib -no-pie -fno-pic \
    -mgeneral-regs-only -fno-stack-protector -fcf-protection=none \
    -fno-asynchronous-unwind-tables -fno-tree-loop-distribute-patterns \
    -Wl,--build-id=none,-N,-z,noexecstack,-s -o "$work/init" "$here"/*.c

# --- The archive: cpio's "newc" format (Linux: early-userspace/buffer-format) ---

pad_to_4() { head -c $(((4 - $1 % 4) % 4)) /dev/zero; }

# entry NAME MODE SIZE [MAJOR MINOR]: a header and a name; the content follows.
inode=0
entry() {
    inode=$((inode + 1))
    # Owner and group, links, time, size, the archive's device, the node's
    # device, length of the name, no checksum.
    printf '070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\0' \
        "$inode" "$2" 0 0 1 0 "$3" 0 0 "${4:-0}" "${5:-0}" $((${#1} + 1)) 0 "$1"
    pad_to_4 $((110 + ${#1} + 1))
}
directory() { entry "$1" $((0040000 | $2)) 0; }
character_device() { entry "$1" $((0020000 | $2)) 0 "$3" "$4"; }
program() {
    local size
    size=$(stat -c %s "$2")
    entry "$1" $((0100755)) "$size"
    cat "$2"
    pad_to_4 "$size"
}
link() {
    entry "$1" $((0120777)) ${#2}
    printf '%s' "$2"
    pad_to_4 ${#2}
}

# Few and small files, not compressed: the guest copies them one by one, with
# every instruction interpreted on some hosts. The kernel brings /dev and
# /dev/console itself.
init_files() {
    directory proc 0755
    directory sys 0755
    character_device dev/port 0600 1 4
    program init "$work/init"
}
# Debian's static busybox finds its applets without a link for each. Name servers are
# those that the kernel has learned of by DHCP or `ip=`.
shell_files() {
    init_files
    directory bin 0755
    directory root 0700
    directory etc 0755
    link etc/resolv.conf /proc/net/pnp
    program bin/busybox "$busybox"
    link bin/sh busybox
}
end() { entry 'TRAILER!!!' 0 0; }

{ init_files && end; } >"$work/init.cpio"
if [[ $busybox ]]; then
    { shell_files && end; } >"$work/shell.cpio"
    mv "$work/shell.cpio" "$out/"
fi
mv "$work/init.cpio" "$work/init" "$out/"

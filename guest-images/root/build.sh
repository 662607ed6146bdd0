#!/bin/bash
# Makes a small ext4 root disk: the tiny guest's init and a shell.
#
#   build.sh [--cache DIR]
#
# Prints one line on stdout, the directory that holds
#   root.ext4   the disk: one file system, no partitions; sparse
#   stamp       the package of the shell
# Progress goes to stderr, as lines `mayfly-build: PERCENT TEXT`.
#
# The directory's name ends in a hash of this recipe; a second call finds it and
# does nothing. Root is needed only if a tool is missing. The machine's own
# package sources are read, never changed.
set -euo pipefail
export LC_ALL=C
umask 022

size=32M

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=../packages.sh
. "$here/../packages.sh"

take_arguments "$@"

PATH=$PATH:/usr/sbin:/sbin
out=$cache/root/ext4-$(recipe_hash "$here/build.sh" "$here"/../tiny/init/*)
finish() {
    echo "$out"
    exit 0
}
[[ ! -d $out ]] || finish

missing=()
command -v gcc >/dev/null || missing+=(gcc)
command -v mke2fs >/dev/null || missing+=(e2fsprogs)
if ((${#missing[@]} && EUID != 0)); then
    fail "missing ${missing[*]}; run as root: apt-get install --no-install-recommends ${missing[*]}"
fi
workplace root
[[ ! -d $out ]] || finish

progress 10 "reading Debian's package lists"
debian_sources "$(this_release)"
if ((${#missing[@]})); then
    progress 20 "installing ${missing[*]}"
    quietly apt-get -q install --no-install-recommends "${missing[@]}"
fi
progress 40 "fetching busybox"
fetch busybox-static

progress 80 "making the disk"
tree=$work/tree
mkdir -p "$tree"/{bin,dev,etc,proc,root,sbin,sys}
mkdir -m 1777 "$tree/tmp"
quietly bash "$here/../tiny/init/build.sh" "$work"
install -m 755 "$work/init" "$tree/sbin/init"
install -m 755 "$(find "$work/busybox-static" -name busybox -type f -perm -u+x | head -n 1)" "$tree/bin/busybox"
ln -s busybox "$tree/bin/sh"
# Name servers that the kernel has learned of by DHCP or `ip=`.
ln -s /proc/net/pnp "$tree/etc/resolv.conf"
# Tables that are there from the start: the kernel would write them at its first
# mount, a few seconds after the boot.
quietly mke2fs -q -t ext4 -b 4096 -L root -E root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0 \
    -d "$tree" "$work/out/root.ext4" "$size"

mv -T "$work/out" "$out"
progress 100 "the root disk is in $out"
finish

#!/bin/bash
# Builds the emulated host: a Debian kernel that QEMU boots on its emulated SVM,
# so that kvm-amd offers a hardware /dev/kvm on any machine.
#
#   build.sh [--cache DIR]
#
# Prints one line on stdout, the directory that holds
#   vmlinuz     the host's kernel (Debian's cloud kernel)
#   initrd.cpio modules and an init that switches to the root disk (init)
#   busybox     a static busybox, for whoever composes that root disk
#   root-init   the root disk's own init (boot it as /sbin/emulated-host-init)
#   stamp       the package versions it was made from
# Progress goes to stderr, as lines `mayfly-build: PERCENT TEXT`.
#
# The directory's name ends in a hash of this recipe; a second call finds it and
# does nothing. The machine's own package sources are read, never changed.
set -euo pipefail
export LC_ALL=C
umask 022

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# Modules the init loads on every boot, then those it loads when asked to
# (kernel parameter MODULES=a,b).
always=(virtio_pci virtio_blk kvm-amd tun)
on_request=(virtio_net virtio-rng virtio_mmio virtio_console virtiofs overlay
    loop bridge veth vhost_net vhost_vsock)

# shellcheck source=../packages.sh
. "$here/../packages.sh"

take_arguments "$@"

# --- What a machine needs to run the host ------------------------------------

PATH=$PATH:/usr/sbin:/sbin
missing=()
command -v qemu-system-x86_64 >/dev/null || missing+=(qemu-system-x86)
command -v qemu-img >/dev/null || missing+=(qemu-utils)
command -v mke2fs >/dev/null || missing+=(e2fsprogs)
command -v setpriv >/dev/null || missing+=(util-linux)

out=$cache/hosts/debian-cloud-$(recipe_hash "$here/build.sh" "$here/init" "$here/root-init")
finish() {
    echo "$out"
    exit 0
}
if ((${#missing[@]} == 0)) && [[ -d $out ]]; then
    finish
fi

release=$(this_release)
if ((${#missing[@]} && EUID != 0)); then
    fail "missing ${missing[*]}; run as root: apt-get install --no-install-recommends -t $release-backports ${missing[*]} (with $release-backports among the package sources)"
fi
workplace hosts
if ((${#missing[@]} == 0)) && [[ -d $out ]]; then
    finish
fi
progress 5 "reading Debian's package lists"
debian_sources "$release"
if ((${#missing[@]})); then
    # From backports: a machine that has any part of QEMU from there can only take
    # the rest from there.
    progress 15 "installing ${missing[*]}"
    quietly apt-get -q install --no-install-recommends -t "$release-backports" "${missing[@]}"
fi
if [[ -d $out ]]; then
    finish
fi

# --- The kernel, the modules and the initrd -----------------------------------

progress 40 "fetching Debian's cloud kernel"
kernel=$(apt-cache depends linux-image-cloud-amd64 |
    sed -nE 's/^ *Depends: (linux-image-[0-9].*)$/\1/p' | head -n 1)
[[ -n $kernel ]] || fail "cannot find the kernel that linux-image-cloud-amd64 stands for"
fetch "$kernel"
progress 70 "fetching busybox"
fetch busybox-static
busybox=$(find "$work/busybox-static" -name busybox -type f -perm -u+x | head -n 1)
cp "$busybox" "$work/out/busybox"
cp "$work/$kernel"/boot/vmlinuz-* "$work/out/vmlinuz"
cp "$here/root-init" "$work/out/root-init"

progress 80 "packing the initrd"
# Since a merged /usr a kernel package may hold its modules in either place.
modules=$(find "$work/$kernel" -type d -path '*/lib/modules/*' -prune | head -n 1)
version=${modules##*/}
initrd=$work/initrd
mkdir -p "$initrd"/{bin,dev,proc,sys,root,"lib/modules/$version"}
all=$work/all
mkdir -p "$all/lib/modules"
mv "$modules" "$all/lib/modules/"
(cd "$all" && quietly "$busybox" depmod -b "$all" "$version")
dependencies=$all/lib/modules/$version/modules.dep
for module in "${always[@]}" "${on_request[@]}"; do
    # Each line reads `a/module.ko: a/dependency.ko …`, and the list is complete.
    line=$(grep -E "^[^:]*/$module\.ko[^:]*:" "$dependencies") ||
        fail "the kernel package $kernel has no module '$module'"
    for file in ${line/:/}; do
        mkdir -p "$initrd/lib/modules/$version/${file%/*}"
        cp "$all/lib/modules/$version/$file" "$initrd/lib/modules/$version/$file"
    done
done
(cd "$initrd" && quietly "$busybox" depmod -b "$initrd" "$version")
echo "${always[*]}" >"$initrd/modules"
cp "$busybox" "$initrd/bin/busybox"
for applet in sh mount mkdir modprobe switch_root cat tr; do
    ln -s busybox "$initrd/bin/$applet"
done
install -m 755 "$here/init" "$initrd/init"
(cd "$initrd" && find . | sort |
    "$busybox" cpio -o -H newc >"$work/out/initrd.cpio" 2>>"$work/log")

mv -T "$work/out" "$out"
progress 100 "the emulated host is in $out"
finish

#!/bin/bash
# Installs a minimal Debian 12 with its cloud kernel into an ext4 root disk.
#
#   root.sh [--all-kernels] [--cache DIR]
#
# Prints one line on stdout, the directory that holds
#   root.ext4          the disk: one file system, no partitions; sparse
#   6.1/vmlinuz        its cloud kernel, unmodified
#   6.1/initrd.img     the initramfs that Debian's initramfs-tools made for it
#   stamp              the packages and versions it consists of
# and with --all-kernels, on a disk of its own, also
#   6.12/…             the newest cloud kernel of backports
#   generic/…          the 6.1 for every machine (linux-image-amd64)
# Progress goes to stderr, as lines `mayfly-build: PERCENT TEXT`.
#
# The directory's name ends in a hash of this recipe; a second call finds it and
# does nothing. Needs root, as debootstrap does. The machine's own package sources
# are read, never changed.
set -euo pipefail
export LC_ALL=C
umask 022

release=bookworm
# Beyond what a Debian cannot be without: what a kernel needs and makes its
# initramfs (with a check of the root, for which that wants logsave), an init that
# shows a login prompt, and the bus by which its parts, the one that hears the power
# button among them, talk.
packages=initramfs-tools,linux-base,logsave,systemd-sysv,dbus
kernels=(6.1)
size=1G
name=root
if [[ ${1:-} == --all-kernels ]]; then
    kernels=(6.1 6.12 generic)
    size=2G
    name=root-all
    shift
fi

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=../packages.sh
. "$here/../packages.sh"

take_arguments "$@"

PATH=$PATH:/usr/sbin:/sbin
out=$cache/debian/$name-$(recipe_hash "$here/root.sh" "$here"/../tiny/init/*)
finish() {
    echo "$out"
    exit 0
}
[[ ! -d $out ]] || finish

((EUID == 0)) || fail "a Debian can be installed by root only: run $here/root.sh as root"
workplace debian-root
[[ ! -d $out ]] || finish

missing=()
command -v debootstrap >/dev/null || missing+=(debootstrap)
command -v mke2fs >/dev/null || missing+=(e2fsprogs)
command -v gcc >/dev/null || missing+=(gcc)
if ((${#missing[@]})); then
    progress 2 "installing ${missing[*]}"
    debian_sources "$(this_release)"
    quietly apt-get -q install --no-install-recommends "${missing[@]}"
fi
progress 5 "reading Debian's package lists"
debian_sources "$release"

progress 10 "installing Debian '$release' (100 MB)"
root=$work/root
mirror=$(sed -nE "s/^deb .* ?(https?:[^ ]+) $release main\$/\1/p" "$work/apt/sources.list")
keys=/usr/share/keyrings/debian-archive-keyring.gpg
# Its apt is to know nothing of the one that has been configured above.
quietly env -u APT_CONFIG debootstrap --variant=minbase --include="$packages" \
    $([[ ! -f $keys ]] || echo "--keyring=$keys") "$release" "$root" "$mirror"

# The disk is not here, for its initramfs to see by itself what is to be checked.
echo FSTYPE=ext4 >"$root/etc/initramfs-tools/conf.d/fstype"
echo '/dev/vda / ext4 defaults 0 1' >"$root/etc/fstab"

# The package of a kernel: linux-image-6.1.0-56-cloud-amd64 and the like.
package() {
    local name
    case $1 in
    generic) name='6\.1\.[0-9][0-9.-]*-amd64' ;;
    *) name="${1/./\\.}\.[0-9][0-9.+a-z-]*-cloud-amd64" ;;
    esac
    apt-cache --names-only search "^linux-image-$name\$" | cut -d ' ' -f 1 | sort -V | tail -n 1
}

percent=50
for kernel in "${kernels[@]}"; do
    package=$(package "$kernel")
    [[ -n $package ]] || fail "Debian '$release' and its backports have no kernel '$kernel'"
    progress "$percent" "installing $package"
    percent=$((percent + 10))
    (cd "$root/tmp" && quietly apt-get -q download "$package")
    quietly env -u APT_CONFIG chroot "$root" sh -c 'dpkg --install /tmp/*.deb'
    rm "$root"/tmp/*.deb
    mkdir "$work/out/$kernel"
    cp "$root/boot/vmlinuz-${package#linux-image-}" "$work/out/$kernel/vmlinuz"
    cp "$root/boot/initrd.img-${package#linux-image-}" "$work/out/$kernel/initrd.img"
done

progress 80 "setting it up"
chroot "$root" dpkg-query -W >"$work/out/stamp"
quietly chroot "$root" passwd --delete root
echo mayfly >"$root/etc/hostname"
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,locale}/*
quietly bash "$here/../tiny/init/build.sh" "$work"
install -m 755 "$work/init" "$root/sbin/mayfly-init"

progress 90 "making the disk"
quietly mke2fs -q -t ext4 -L root -d "$root" "$work/out/root.ext4" "$size"

mkdir -p "${out%/*}"
mv -T "$work/out" "$out"
progress 100 "Debian is in $out"
finish

#!/bin/bash
# Fetches Debian's cloud kernels, unmodified, and packs the project's own init as
# an initramfs for them.
#
#   build.sh [--cache DIR]
#
# Prints one line on stdout, the directory that holds
#   6.1/vmlinuz   the kernel of Debian 12 (bookworm)
#   6.12/vmlinuz  the newest 6.12 of its backports
#   …/config      their configurations
#   init.cpio     the initramfs
#   stamp         the packages and versions it was made from
# Progress goes to stderr, as lines `mayfly-build: PERCENT TEXT`.
#
# The directory's name ends in a hash of this recipe; a second call finds it and
# does nothing. The machine's own package sources are read, never changed.
set -euo pipefail
export LC_ALL=C
umask 022

release=bookworm
versions=(6.1 6.12)

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=../packages.sh
. "$here/../packages.sh"

take_arguments "$@"

out=$cache/debian/kernels-$(recipe_hash "$here/build.sh" "$here"/../tiny/init/*)
finish() {
    echo "$out"
    exit 0
}
[[ ! -d $out ]] || finish

if ! command -v gcc >/dev/null && ((EUID != 0)); then
    fail "missing gcc; run as root: apt-get install --no-install-recommends gcc"
fi
workplace debian
[[ ! -d $out ]] || finish

if ! command -v gcc >/dev/null; then
    progress 5 "installing gcc"
    debian_sources "$(this_release)"
    quietly apt-get -q install --no-install-recommends gcc
fi
progress 10 "reading Debian's package lists"
debian_sources "$release"

# The newest kernel image of a version: names are linux-image-6.1.0-56-cloud-amd64
# and linux-image-6.12.95+deb12-cloud-amd64.
newest() {
    apt-cache --names-only search "^linux-image-${1/./\\.}\\.[0-9][0-9.+a-z-]*-cloud-amd64\$" |
        cut -d ' ' -f 1 | sort -V | tail -n 1
}

percent=20
for version in "${versions[@]}"; do
    kernel=$(newest "$version")
    [[ -n $kernel ]] || fail "Debian '$release' and its backports have no cloud kernel $version"
    progress "$percent" "fetching $kernel"
    fetch "$kernel"
    percent=$((percent + 35))
    mkdir "$work/out/$version"
    # The System.map beside them is one line: the real one is in a debug package.
    for file in vmlinuz config; do
        cp "$work/$kernel/boot/$file-"* "$work/out/$version/$file"
    done
done

progress 95 "compiling the init"
quietly bash "$here/../tiny/init/build.sh" "$work/out"

mv -T "$work/out" "$out"
progress 100 "Debian's kernels are in $out"
finish

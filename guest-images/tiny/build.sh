#!/bin/bash
# Builds the `tiny` guest: a kernel from Debian's kernel source package and an
# initramfs with our own init. See README.md.
#
#   build.sh [--variant full|minimal] [--cache DIR]
#
# stdout: one line, the folder with the result.
# stderr: progress, as lines "mayfly-build: PERCENT TEXT"; on failure a last
#         line "mayfly-build: TEXT" that says what to do.
#
# The result's name holds a hash of this recipe, so a second call finds it and
# does nothing. The kernel is kept under a hash of its own part of the recipe, so
# that a change of the init takes seconds.

set -euo pipefail
export LC_ALL=C
umask 022

readonly source_package=linux-source-6.12
readonly shell_package=busybox-static

recipe=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
variant=full
cache=${MAYFLY_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/mayfly}

progress() { echo "mayfly-build: $1 $2" >&2; }

fail() {
    # The log outlives the work folder only when something went wrong.
    if [ -s "${log:-}" ]; then
        cp "$log" "$guests/tiny-$variant.log"
        echo "mayfly-build: $* (see $guests/tiny-$variant.log)" >&2
    else
        echo "mayfly-build: $*" >&2
    fi
    exit 1
}

while [ $# -gt 0 ]; do
    case $1 in
        --variant) variant=${2:-}; shift 2 ;;
        --cache) cache=${2:-}; shift 2 ;;
        *) fail "unknown argument '$1'; usage: build.sh [--variant full|minimal] [--cache DIR]" ;;
    esac
done
case $variant in
    full | minimal) ;;
    *) fail "no such variant '$variant'; there are full and minimal" ;;
esac

guests=$cache/guests
# The front end in src/guest/ computes the same hash: keep both alike.
hash=$(cd "$recipe" && sha256sum build.sh full.config init/* minimal.config | sha256sum)
result=$guests/tiny-$variant-${hash:0:16}
hash=$(cd "$recipe" && sha256sum build.sh "$variant.config" | sha256sum)
kernel=$guests/kernel-$variant-${hash:0:16}

finish() {
    echo "$result"
    exit 0
}

[ ! -d "$result" ] || finish

# --- One build at a time ----------------------------------------------------

mkdir -p "$guests"
exec 9>"$guests/.lock"
if ! flock --nonblock 9; then
    progress 0 "waiting for another build"
    flock 9
fi
[ ! -d "$result" ] || finish

# Job control gives every command started with & a process group of its own, by
# which it can be ended together with what it started.
set -m

clean_up() {
    local job
    for job in $(jobs -p); do
        kill -- "-$job" 2>/dev/null || true
        wait "$job" 2>/dev/null || true
    done
    rm -rf "$work"
}
# What a build that was killed outright could not remove.
rm -rf "$guests"/.work-*
work=$(mktemp -d "$guests/.work-XXXXXX")
log=$work/log
trap clean_up EXIT
trap 'exit 1' HUP INT TERM

# Runs a command in the background, output to the log: a signal to this script
# then ends the wait at once instead of after the command.
run() {
    "$@" </dev/null >>"$log" 2>&1 9>&- &
    wait $!
}

# --- Tools ------------------------------------------------------------------

missing_packages() {
    local pair
    for pair in gcc:gcc make:make ld:binutils flex:flex bison:bison bc:bc xz:xz-utils perl:perl-base; do
        command -v "${pair%%:*}" >/dev/null || echo "${pair#*:}"
    done
    # Headers: the C library's, and those of the kernel's own build tool objtool.
    [ -e /usr/include/stdio.h ] || echo libc6-dev
    [ -e /usr/include/gelf.h ] || echo libelf-dev
}

install_tools() {
    local packages install
    packages=$(missing_packages | tr '\n' ' ')
    [ -n "$packages" ] || return 0
    command -v apt-get >/dev/null ||
        fail "the kernel build needs these Debian packages (or their like): $packages"
    install="apt-get install --no-install-recommends $packages"
    [ "$(id -u)" = 0 ] || fail "tools are missing; as root: $install"
    progress 1 "installing $packages"
    # shellcheck disable=SC2086 # a list of words
    DEBIAN_FRONTEND=noninteractive run $install -y ||
        { run apt-get update && DEBIAN_FRONTEND=noninteractive run $install -y; } ||
        fail "cannot install the tools; try: $install"
}

# --- Sources ----------------------------------------------------------------

# Where this machine gets its Debian from.
mirror() {
    apt-get indextargets 'Created-By: Packages' 'Component: main' --no-release-info \
        --format '$(RELEASE) $(REPO_URI)' | awk -v release="$1" '$1 == release { print $2; exit }'
}

# Writes a configuration of apt's own for this one download: the machine's
# package sources, lists and caches stay as they are.
private_apt() {
    local codename uri options=
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    command -v apt-get >/dev/null || fail "fetching $source_package needs a Debian machine with apt"
    uri=$(mirror "$codename")
    [ -n "$uri" ] || uri=$(mirror stable)
    [ -n "$uri" ] || fail "apt has no package source for Debian '$codename' main"
    # Newer releases keep Debian's keys only here.
    [ ! -e /usr/share/keyrings/debian-archive-keyring.gpg ] ||
        options='[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] '

    mkdir -p "$work/apt/lists/partial" "$work/apt/cache/archives/partial" "$work/apt/state"
    echo "deb $options$uri $codename main" >"$work/apt/sources.list"
    # Bookworm's own kernel is 6.1.
    [ "$codename" != bookworm ] ||
        echo "deb $options$uri $codename-backports main" >>"$work/apt/sources.list"
    cat >"$work/apt/apt.conf" <<END
Dir::Etc::SourceList "$work/apt/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
Dir::State "$work/apt/state";
Dir::State::lists "$work/apt/lists";
Dir::State::status "/var/lib/dpkg/status";
Dir::Cache "$work/apt/cache";
Acquire::Languages "none";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
END
}

fetch_sources() {
    sources=$guests/sources
    mkdir -p "$sources"
    if [ -z "$(cached $source_package)" ] || [ -z "$(cached $shell_package)" ]; then
        progress 3 "downloading Debian's kernel source (150 MB)"
        private_apt
        run apt-get -c "$work/apt/apt.conf" update ||
            fail "cannot read Debian's package lists; is the network up?"
        mkdir "$work/download"
        cd "$work/download"
        run apt-get -c "$work/apt/apt.conf" download $source_package $shell_package ||
            fail "cannot download $source_package and $shell_package"
        mv -- *.deb "$sources/"
        cd /
    fi
}

# The downloaded package's file, if there is one.
cached() { find "$sources" -name "$1_*.deb" | sort | tail -n 1; }

unpack_shell() {
    mkdir "$work/shell"
    run dpkg -x "$(cached $shell_package)" "$work/shell" ||
        fail "cannot unpack $(cached $shell_package); remove it and try again"
}

unpack_sources() {
    progress 8 "unpacking the kernel source"
    # Half of the source is for other machines; of their folders only the
    # Kconfig files are read.
    local -a unused=()
    local name
    for name in alpha arc arm arm64 csky hexagon loongarch m68k microblaze mips nios2 openrisc \
        parisc powerpc riscv s390 sh sparc um xtensa; do
        unused+=(--exclude="*/arch/$name/*.[chS]")
    done
    for name in accel clk comedi crypto dma gpu hid hwmon iio infiniband md media mfd mtd \
        net/ethernet net/wireless phy pinctrl platform regulator scsi soc staging usb video; do
        unused+=(--exclude="*/drivers/$name/*.[ch]")
    done
    mkdir "$work/linux"
    unpack() {
        dpkg-deb --fsys-tarfile "$(cached $source_package)" |
            tar -xO "./usr/src/$source_package.tar.xz" |
            xz -dc -T0 |
            tar -x -C "$work/linux" --strip-components=1 --exclude='*/sound/*.[ch]' \
                --exclude='*/tools/testing/*' --exclude='*/tools/perf/*' --exclude='*.rst' \
                --exclude='*.yaml' --exclude='*.dts' --exclude='*.dtsi' "${unused[@]}"
    }
    run unpack || fail "cannot unpack $(cached $source_package); remove it and try again"
}

# --- Kernel -----------------------------------------------------------------

# The same bytes whoever builds, wherever and whenever.
kernel_make() {
    make -C "$work/linux" O="$work/build" KBUILD_BUILD_USER=mayfly KBUILD_BUILD_HOST=mayfly \
        KBUILD_BUILD_TIMESTAMP='1970-01-01 00:00:00 UTC' "$@"
}

# Every line of the fragment must hold in the final configuration.
check_config() {
    local line symbol
    while read -r line; do
        case $line in
            CONFIG_*) grep -qxF -- "$line" "$work/build/.config" ||
                fail "this kernel source does not allow '$line'" ;;
            '# CONFIG_'*' is not set')
                symbol=${line#\# }
                ! grep -q "^${symbol%% *}=" "$work/build/.config" ||
                    fail "this kernel source does not allow '$line'" ;;
        esac
    done <"$recipe/$variant.config"
}

configure_kernel() {
    progress 14 "configuring the kernel"
    run kernel_make KCONFIG_ALLCONFIG="$recipe/$variant.config" allnoconfig ||
        fail "cannot configure the kernel"
    check_config
}

build_kernel() {
    # Compilations in this build, roughly: only the progress depends on it.
    local expected=1600 done_now percent last=-1
    [ "$variant" = full ] || expected=1350
    touch "$work/make.log"
    kernel_make -j"$(nproc)" bzImage </dev/null >"$work/make.log" 2>&1 9>&- &
    local make=$!
    while kill -0 $make 2>/dev/null; do
        done_now=$(grep -c '^  [A-Z]' "$work/make.log" || true)
        percent=$((16 + done_now * 80 / expected))
        [ $percent -le 96 ] || percent=96
        [ $percent = $last ] || progress $percent "compiling the kernel"
        last=$percent
        sleep 0.5
    done
    wait $make || {
        cat "$work/make.log" >>"$log"
        fail "the kernel does not compile: $(grep -m 1 -iE 'error|killed|no space' "$work/make.log" || true)"
    }
}

# --- All of it --------------------------------------------------------------

install_tools
fetch_sources
if [ ! -d "$kernel" ]; then
    unpack_sources
    configure_kernel
    build_kernel
    mkdir "$work/kernel"
    strip -s -o "$work/kernel/vmlinux" "$work/build/vmlinux"
    cp "$work/build/arch/x86/boot/bzImage" "$work/build/System.map" "$work/kernel/"
    cp "$work/build/.config" "$work/kernel/config"
    mv "$work/kernel" "$kernel"
fi
progress 97 "packing"
unpack_shell
# The same files under another name: they are never written again.
cp -al "$kernel" "$work/result"
run bash "$recipe/init/build.sh" "$work/result" "$(find "$work/shell" -type f -path "*/bin/busybox")" ||
    fail "the guest's init does not compile"
rm -f "$guests/tiny-$variant.log"
mv "$work/result" "$result"
progress 100 "done"
finish

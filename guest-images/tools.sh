#!/bin/bash
# Installs the Debian packages of these programs, as far as they are missing:
#
#   tools.sh PROGRAM…
#
# The programs are those that the tests run beside Mayfly and its guests.
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin

# package PROGRAM: where Debian has it.
package() {
    case $1 in
    cc) echo gcc libc6-dev ;;
    iasl) echo acpica-tools ;;
    ip) echo iproute2 ;;
    ldd) echo libc-bin ;;
    passt) echo passt ;;
    *)
        echo "tools.sh: unknown program '$1'" >&2
        return 1
        ;;
    esac
}

missing() {
    local program
    for program; do
        command -v "$program" >/dev/null || package "$program"
    done
}

packages=$(missing "$@")
[[ -n $packages ]] || exit 0
if ((EUID != 0)); then
    echo "tools.sh: run as root: apt-get install" $packages >&2
    exit 1
fi
# One at a time: the next finds what this one has installed.
exec 9<"${BASH_SOURCE[0]}"
flock 9
packages=$(missing "$@")
[[ -n $packages ]] || exit 0
export DEBIAN_FRONTEND=noninteractive
{
    apt-get -q update
    # shellcheck disable=SC2086 # a list of words
    apt-get -q -y install --no-install-recommends $packages
} </dev/null >&2

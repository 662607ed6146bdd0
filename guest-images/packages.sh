# Debian's packages for the build scripts beside this file, which source it: what
# they fetch is unpacked and never installed, with an apt configuration of their
# own. The machine's package sources are read, never changed.
#
# Expects `set -euo pipefail`. Gives:
#   progress PERCENT TEXT   one line on stderr
#   fail TEXT               one line on stderr, and the end
#   cache                   the cache directory, $MAYFLY_CACHE or the user's
#   take_arguments ARG…     build.sh's own: [--cache DIR]
#   recipe_hash FILE…       16 digits that change with these files and this one
#   workplace FOLDER        makes $work in $cache/FOLDER, removed at the end, with
#                           an empty $work/out
#   quietly COMMAND…        runs it; its output is shown only if it fails
#   debian_sources RELEASE  lets apt see that release, security and backports included
#   fetch PACKAGE           unpacks it into $work/PACKAGE, notes it in $work/out/stamp

cache=${MAYFLY_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/mayfly}
work=

progress() { echo "mayfly-build: $1 $2" >&2; }

fail() {
    echo "mayfly-build: $*" >&2
    exit 1
}

take_arguments() {
    while (($#)); do
        case $1 in
        --cache)
            (($# >= 2)) || fail "--cache needs a directory"
            cache=$2
            shift 2
            ;;
        *) fail "unknown argument '$1'; usage: build.sh [--cache DIR]" ;;
        esac
    done
}

recipe_hash() { cat "${BASH_SOURCE[0]}" "$@" | sha256sum | head -c 16; }

# One build at a time in FOLDER: waits for another to end.
workplace() {
    mkdir -p "$cache/$1"
    exec 9>"$cache/$1/.lock"
    if ! flock --nonblock 9; then
        progress 0 "waiting for another build"
        flock 9
    fi
    # Under the lock, another call's workplace is one that was killed.
    rm -rf "$cache/$1"/.build.*
    work=$(mktemp -d "$cache/$1/.build.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    trap 'exit 1' HUP INT TERM
    mkdir "$work/out"
}

quietly() {
    "$@" >>"$work/log" 2>&1 </dev/null 9>&- || {
        tail -n 30 "$work/log" >&2
        fail "'$*' failed"
    }
}

# The code name of the Debian that this machine runs; empty elsewhere.
this_release() {
    # shellcheck source=/dev/null
    (. /etc/os-release && echo "${VERSION_CODENAME:-}") 2>/dev/null || true
}

# This machine's mirrors, for a release that need not be the machine's own.
debian_sources() {
    local release=$1 own uri suite main='' security='' signed=''
    own=$(this_release)
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
        fail "fetching Debian's packages needs apt-get and dpkg-deb; run it on Debian, and copy the result from there"
    while read -r uri suite; do
        case $suite in
        "$own") main=$uri ;;
        "$own"-security) security=$uri ;;
        esac
    done < <(apt-get update --print-uris 2>/dev/null |
        sed -nE "s|^'([^']*)/dists/([^'/]+)/InRelease'.*|\1 \2|p" |
        grep -E '/debian(-security)? ' | sort -u)
    [[ -n $main ]] ||
        fail "no Debian mirror for '$own' among this machine's package sources; add one"

    # Newer releases keep Debian's keys only here.
    if [[ -f /usr/share/keyrings/debian-archive-keyring.gpg ]]; then
        signed='[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]'
    fi
    local apt=$work/apt
    mkdir -p "$apt"/{lists,cache/archives}/partial "$apt/parts"
    {
        for suite in "$release" "$release-updates" "$release-backports"; do
            echo "deb $signed $main $suite main"
        done
        [[ -z $security ]] || echo "deb $signed $security $release-security main"
    } >"$apt/sources.list"
    cat >"$apt/apt.conf" <<CONF
Dir::Etc::sourcelist "$apt/sources.list";
Dir::Etc::sourceparts "$apt/parts";
Dir::State::lists "$apt/lists";
Dir::Cache "$apt/cache";
Acquire::Languages "none";
Acquire::Retries "3";
APT::Sandbox::User "$(id -un)";
APT::Get::Assume-Yes "true";
Dpkg::Use-Pty "false";
CONF
    export APT_CONFIG=$apt/apt.conf DEBIAN_FRONTEND=noninteractive
    quietly apt-get -q update
}

fetch() {
    local dir=$work/$1
    mkdir -p "$dir"
    (cd "$dir" && quietly apt-get -q download "$1")
    quietly dpkg-deb -x "$dir"/*.deb "$dir"
    dpkg-deb -W "$dir"/*.deb >>"$work/out/stamp"
    rm "$dir"/*.deb
}

#!/bin/bash
# Boots Debian's unmodified kernels to our init on this host's KVM and prints, as
# a Markdown table, how long that took and what it cost. On hardware KVM that is
# done in a second; a kvm-pvm host, for which this is, takes minutes
# (docs/kvm-pvm.md), so it is no test.
#
#   stock_kernels.sh [OPTION]… [VERSION]… [-- KERNEL-OPTION…]
#
#   --debian        a whole Debian instead, with its own initramfs and its root on a
#                   disk, up to our init on that disk; needs root
#   --emulated      nothing of that, but a whole Debian up to its login prompt, and off
#                   by the power button, on the emulated host with hardware KVM: the
#                   test of the same, with all kernels; takes no other options
#   --plain         only the kernel options that Mayfly chooses by itself
#   --memory SIZE   guest memory, 256M; 768M for a whole Debian
#   --timeout TIME  give a kernel up after this time, 30m
#   --keep DIR      where to leave the consoles, VERSION.log, and processor times
#   --mayfly FILE   another binary than target/release/mayfly
#
# VERSION is 6.1 or 6.12, or for a whole Debian also generic (6.1 for every machine);
# all if none is named. While a kernel boots its console
# is on stderr. The exit status is 1 if one did not get as far as powering off.
set -euo pipefail
export LC_ALL=C

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
mayfly=
memory=
timeout=30m
keep=
plain=
debian=
emulated=
versions=()
more=()

fail() {
    echo "stock_kernels: $*" >&2
    exit 2
}

while (($#)); do
    case $1 in
    --plain) plain=yes ;;
    --debian) debian=yes ;;
    --emulated) emulated=yes ;;
    --memory | --timeout | --keep | --mayfly)
        (($# >= 2)) || fail "$1 needs a value"
        declare "${1#--}=$2"
        shift
        ;;
    --)
        shift
        more=("$@")
        break
        ;;
    -*) fail "unknown option '$1'; the head of this file lists them" ;;
    *) versions+=("$1") ;;
    esac
    shift
done
if ((${#versions[@]} == 0)); then
    versions=(6.1 6.12)
    [[ ! $debian$emulated ]] || versions+=(generic)
fi
if [[ $emulated ]]; then
    cd "$root"
    MAYFLY_DEBIAN_KERNELS="${versions[*]}" exec cargo test --quiet --locked --release \
        --test integration emulated_host::debian_root -- --nocapture
fi
if [[ -z $mayfly ]]; then
    mayfly=$root/target/release/mayfly
    (cd "$root" && cargo build --quiet --locked --release)
fi
if [[ $debian ]]; then
    all=
    [[ ${versions[*]} == 6.1 ]] || all=--all-kernels
    # shellcheck disable=SC2086 # an option or none
    kernels=$(bash "$root/guest-images/debian/root.sh" $all)
else
    kernels=$(bash "$root/guest-images/debian/build.sh")
fi
for version in "${versions[@]}"; do
    [[ -f $kernels/$version/vmlinuz ]] || fail "there is no kernel '$version' in $kernels"
done
if [[ -z $keep ]]; then
    keep=$(mktemp -d)
    trap 'rm -rf "$keep"' EXIT
fi
mkdir -p "$keep"

# Beyond what Mayfly adds by itself: these leave parts of the kernel out, which a
# user may want and a measurement does not.
left_out=(
    # Function and event tracing: thousands of files in tracefs, and names looked up.
    tracer_init_tracefs init_blk_tracer init_kprobe_trace init_uprobe_trace
    trace_eval_init trace_eval_sync event_trace_enable_again
    # Integrity measurement.
    init_ima init_evm
    # Certificates, built in, revoked and of the firmware, each parsed and hashed;
    # their keyrings stay, as others link to them.
    load_system_certificate_list load_revocation_certificate_list load_uefi_certs
    # All that has the kernel's type information (BTF) parsed, five megabytes: the types
    # of modules, CUBIC, so that TCP is left with Reno, and functions for BPF programs.
    btf_module_init cubictcp_register kfunc_init init_subsystem bpf_kfunc_init bpf_fs_kfuncs_init
    bpf_key_sig_kfuncs_init bpf_kprobe_multi_kfuncs_init bpf_prog_test_run_init
    bpf_rstat_kfunc_init bpf_tcp_ca_kfunc_init bpf_dummy_struct_ops_init
    cpumask_kfunc_init crypto_kfunc_init xdp_metadata_init
    # A directory in sysfs for each slab cache.
    slab_sysfs_init
    # A directory in sysfs for each built-in module.
    param_sysfs_builtin_init
)
options=(quiet)
if [[ -z $plain ]]; then
    options+=(lsm=capability rcupdate.rcu_expedited=1 init_on_alloc=0 psi=0
        "initcall_blacklist=$(IFS=, && echo "${left_out[*]}")")
fi
if [[ $debian ]]; then
    # The initramfs waits half a minute for its root unless it is told otherwise, and
    # the generic kernel has modules to load until it is there.
    options+=(root=/dev/vda rw rootdelay=900 init=/sbin/mayfly-init)
fi
options+=("${more[@]}")

# boot_files VERSION: what is to be booted, as words for mayfly, one a line.
boot_files() {
    if [[ $debian ]]; then
        printf '%s\n' --memory "${memory:-768M}" --kernel "$kernels/$1/vmlinuz" \
            --initrd "$kernels/$1/initrd.img" --disk "path=$kernels/root.ext4,format=raw,ephemeral"
    else
        printf '%s\n' --memory "${memory:-256M}" --kernel "$kernels/$1/vmlinuz" \
            --initrd "$kernels/init.cpio"
    fi
}

# number NAME: a number of the JSON line on stdin, or nothing.
number() { sed -nE "s/.*\"$1\":([0-9.]+).*/\1/p"; }
word() { sed -nE "s/.*\"$1\":\"([^\"]*)\".*/\1/p"; }
# counts NAME: a map of the JSON line on stdin as lines `COUNT NAME`, largest first.
counts() {
    sed -nE "s/.*\"$1\":\{([^}]*)\}.*/\1/p" | tr ',' '\n' |
        sed -nE 's/^"([^"]*)":([0-9]+)$/\2 \1/p' | sort -rn
}
sum() { awk '{ total += $1 } END { print total + 0 }'; }
seconds() { awk -v ms="${1:-}" 'BEGIN { if (ms == "") print "-"; else printf "%.1f\n", ms / 1000 }'; }

status=0
table=
TIMEFORMAT="%U %S"
for version in "${versions[@]}"; do
    log=$keep/$version.log
    mapfile -t files < <(boot_files "$version")
    {
        time "$mayfly" run --json -v --timeout "$timeout" "${files[@]}" --cmdline "${options[*]}" </dev/null 2>&1 | tee "$log" >&3 || true
    } 3>&2 2>"$keep/$version.cpu"
    json=$(grep -a '^{"reason"' "$log" | tail -n 1 || true)
    [[ $json ]] || fail "mayfly gave no report; see its console above"
    reason=$(word reason <<<"$json")
    [[ $reason == power-off ]] || status=1
    case $version in
    generic) name='6\.1\.[0-9-]*-amd64' ;;
    *) name="${version/./\\.}\.[^[:space:]]*-cloud-amd64" ;;
    esac
    release=$(sed -nE "s/^linux-image-($name)[[:space:]].*/\1/p" "$kernels/stamp")
    most=$(counts emulated <<<"$json" | head -n 5 | awk '{ printf "%s%s %s", (NR > 1 ? ", " : ""), $2, $1 }')
    table+="| $release | $reason | $(seconds "$(number userspace <<<"$json")") | $(seconds "$(number end <<<"$json")")"
    table+=" | $(awk '{ printf "%.1f\n", $1 + $2 }' "$keep/$version.cpu")"
    held=$(number ticks_held_back <<<"$json")
    table+=" | ${held:--} | $(counts exits <<<"$json" | sum) | $(counts emulated <<<"$json" | sum) | ${most:-none} |"$'\n'
done

echo "kernel options: ${options[*]}" >&2
echo "| kernel | end | s to userspace | s in all | s of processor time | ticks held back | exits | emulated | most of them |"
echo "|---|---|---|---|---|---|---|---|---|"
printf '%s' "$table"
exit "$status"

#!/usr/bin/env bash
# Builds program and tests for arm64 with Debian's cross compiler and runs them under qemu. The arm64
# libraries are unpacked under build/arm64-root; the packages of this machine stay as they are.
#   tests/ports/arm64.sh [PATTERN...]   tests to run (default: below)
# Exit status: 0 passed, 1 failed, 77 skipped.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD/build/arm64-root
cross=aarch64-linux-gnu-gcc
jobs=$(nproc)

skip() { echo "skip: $1"; exit 77; }
command -v $cross >/dev/null || skip "$cross is missing (apt-get install gcc-aarch64-linux-gnu)"
qemu=$(command -v qemu-aarch64 || command -v qemu-aarch64-static) || skip "qemu-aarch64 is missing (apt-get install qemu-user)"
command -v apt-get >/dev/null || skip "the arm64 libraries come by apt-get"

unpack_libraries() {
    local apt=$root/apt
    rm -rf "$root" && mkdir -p "$apt/lists/partial" "$apt/archives/partial"
    : >"$apt/status"
    local own=(-o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o Dir::State="$apt" -o Dir::State::status="$apt/status"
        -o Dir::Cache="$apt" -o Debug::NoLocking=1 -o APT::Sandbox::User="$(id -un)")
    apt-get "${own[@]}" update -q || return
    apt-get "${own[@]}" install -y -q --no-install-recommends --download-only libc6-dev libmicrohttpd-dev libuv1-dev libjansson-dev \
        libpcre2-dev libutf8proc-dev libcurl4-openssl-dev libcriterion-dev || return
    local deb link
    for deb in "$apt"/archives/*.deb; do dpkg -x "$deb" "$root" || return; done
    # A link to a file of the system means the file of this root.
    while read -r link; do ln -sfn "$root$(readlink "$link")" "$link"; done < <(find "$root/usr" "$root/lib" -type l -lname '/*')
    rm -rf "$apt"
    touch "$root/complete"
}
[ -e "$root/complete" ] || unpack_libraries >build/arm64-root.log 2>&1 || skip "the arm64 libraries could not be fetched: $(tail -1 build/arm64-root.log)"

make -j"$jobs" --no-print-directory CUDA=0 MPI=0 MODE=arm64 SYSROOT= WERROR=1 CC="${CCACHE:-} $cross --sysroot=$root" \
    build/arm64/fathom build/arm64/unit-forked | tail -1

export QEMU_LD_PREFIX=$root
answer=$("$qemu" build/arm64/fathom generate --model models/hops --show-depth --prompt "Ann's friend is Kim. Kim's friend is Bob. Bob's friend is Ann.
Ann's friend's friend is" 2>/dev/null)
[ "$answer" = " Bob.
depths: 2,1" ] || { echo "FAIL models/hops answers: $answer"; exit 1; }

# What differs between machines: arithmetic, golden results, signs of characters, order of bytes, embedded
# files. Under qemu a test takes 20 to 50 times its time, so random walks and failing allocations are left out.
default=(golden_sched/* golden_family/* bundled/hops_extrapolates* reference*/* rowmath/* cpu/any_shape* cpu_golden/* cpu_forms/* sampler/the_* base*/* hash*/* utf8*/*
    safetensors/a_[^h]* config/[^p]* families/* ouro/* parcae/* tokenizer*/*reference* jinja/* jinja_format*/* api_depth/* api_chatml/*
    api_reply/* api_files/* srv_assets/* srv_hosts/*)
set -f
patterns=("$@")
[ $# -gt 0 ] || patterns=("${default[@]}")
filters=()
for pattern in "${patterns[@]}"; do filters+=(--filter "$pattern"); done
"$qemu" build/arm64/unit-forked -j"$jobs" --patience 50 --slow 20 "${filters[@]}" 2>build/arm64-tests.log | tail -20 || {
    grep -aE '^\[' build/arm64-tests.log
    exit 1
}

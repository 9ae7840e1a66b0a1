#!/usr/bin/env bash
# Builds with -Werror and runs the unit tests in a bare Debian of another release, made by debootstrap
# and removed at the end.   tests/ports/debian.sh [trixie|bookworm]
# Exit status: 0 passed, 1 failed, 77 skipped.
set -euo pipefail
cd "$(dirname "$0")/../.."
suite=${1:-trixie}
mirror=${MIRROR:-http://deb.debian.org/debian}

skip() { echo "skip: $1"; exit 77; }
[ "$(id -u)" = 0 ] || skip "only root can make a chroot"
command -v debootstrap >/dev/null || skip "debootstrap is missing"
dir=$(mktemp -d "${TMPDIR:-/tmp}/fathom-$suite.XXXXXX")
clean() {
    mountpoint -q "$dir/dev" && umount -l "$dir/dev"
    mountpoint -q "$dir/proc" && umount -l "$dir/proc"
    mountpoint -q "$dir/dev" || mountpoint -q "$dir/proc" || rm -rf "$dir"
}
trap clean EXIT
trap 'exit 1' INT TERM
chmod 755 "$dir"
debootstrap --variant=minbase "$suite" "$dir" "$mirror" >build/debootstrap.log 2>&1 ||
    skip "debootstrap $suite $mirror: $(tail -1 build/debootstrap.log)"
echo force-unsafe-io >"$dir/etc/dpkg/dpkg.cfg.d/fast" # the folder need not survive a crash
cp /etc/resolv.conf "$dir/etc/"
mount -t proc proc "$dir/proc"
mount --bind /dev "$dir/dev"
mkdir "$dir/fathom"
git ls-files -z | tar --null --ignore-failed-read -cf - -T - 2>/dev/null | tar -xf - -C "$dir/fathom"
chroot "$dir" bash -euo pipefail -c '
    cd /fathom
    tools/deps.sh unit 2>&1 | tail -1
    gcc --version | head -1
    make --no-print-directory CUDA=0 WERROR=1 all build/release/unit-forked 2>&1 | grep -v " CC " | tail -40
    build/fathom generate --model models/hops --prompt "Ann'\''s friend is Kim. Kim'\''s friend is Ann.
Ann'\''s friend is" 2>/dev/null | grep -q " Kim."
    build/release/unit-forked -j"$(nproc)" --slow 30 2>tests.log | tail -20 || { grep -aE "^\[" tests.log; exit 1; }'

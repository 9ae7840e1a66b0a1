#!/bin/sh
# Installs the Debian packages Fathom needs: tools/deps.sh build|unit|test|full
#   build: to build and run         unit: the unit tests too (make check-fast)
#   test:  every test of make test  full: the programs too without which some tests skip
#
# Does nothing if all are there. As root, or with a sudo that asks nothing, it uses apt-get.
# Otherwise it downloads the packages and unpacks them under build/sysroot, where the Makefile
# looks first. That needs no privileges, but gcc and make must be there.
set -eu
cd "$(dirname "$0")/.."
what=${1:-build}

build="gcc libc6-dev make libmicrohttpd-dev libuv1-dev libjansson-dev libpcre2-dev libutf8proc-dev libcurl4-openssl-dev"
unit="libcriterion-dev"
test="curl jq g++ clang libclang-rt-14-dev nodejs npm procps json-schema-test-suite libzmq5"
full="chromium gnuplot-nox nginx-light haproxy prometheus openssl openmpi-bin libopenmpi-dev iproute2"
case $what in
build) want=$build ;;
unit) want="$build $unit" ;;
test) want="$build $unit $test" ;;
full) want="$build $unit $test $full" ;;
*) sed -n '2,4s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac

# A command that is there serves whoever packaged it; libraries are asked of dpkg.
have() {
    case $1 in
    gcc | g++ | make | curl | clang | jq | npm) command -v "$1" >/dev/null ;;
    nodejs) command -v node >/dev/null ;;
    gnuplot-nox) command -v gnuplot >/dev/null ;;
    nginx-light | haproxy) [ -x "/usr/sbin/${1%-light}" ] ;;
    prometheus | openssl | chromium) command -v "$1" >/dev/null ;;
    openmpi-bin) command -v mpirun >/dev/null ;;
    libopenmpi-dev) command -v mpicc >/dev/null ;;
    iproute2) command -v ip >/dev/null ;;
    procps) command -v pgrep >/dev/null ;;
    *) dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q 'ok installed' || [ -e "build/sysroot/.have-$1" ] ;;
    esac
}
missing=
for p in $want; do have "$p" || missing="$missing $p"; done
[ -z "$missing" ] && exit 0
command -v apt-get >/dev/null || {
    echo "Fathom needs these Debian packages, or their like:$missing" >&2
    exit 1
}

mkdir -p build
log=build/deps.log
: >"$log"
failed() {
    echo "tools/deps.sh: the packages could not be installed; $log ends with:" >&2
    tail -5 "$log" >&2
    exit 1
}
# Keeps apt's output in the log, and prints a line for each package that WORD begins.
count_lines() { # WORD
    awk -v word="$1" -v file="$log" '{ print >>file; fflush(file) }
        / newly installed/ { for (i = 2; i <= NF; i++) if ($i == "newly") total = $(i - 1) }
        index($0, word) == 1 {
            name = $(word == "Get:" ? 5 : 3)
            if (word == "Get:" && name ~ /^(InRelease|Packages|Translation.*|Release.*)$/) next
            sub(/:.*/, "", name)
            printf "  [%d/%d] %s\n", ++n, total, name; fflush() }' >&2
}
export DEBIAN_FRONTEND=noninteractive
# A download may fail, and another apt may be at work.
patient="-o Acquire::Retries=5 -o DPkg::Lock::Timeout=600"

if [ "$(id -u)" = 0 ]; then as=
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then as=sudo
else as=none
fi
if [ "$as" != none ]; then
    echo "installing with apt-get, about a minute:$missing" >&2
    # shellcheck disable=SC2086
    $as apt-get $patient update -q >>"$log" 2>&1 || failed
    # shellcheck disable=SC2086
    { $as apt-get $patient install -y -q --no-install-recommends $missing 2>&1 && echo done >"$log.done"; } | count_lines "Setting up"
    rm "$log.done" 2>/dev/null || failed
    exit 0
fi

for tool in gcc make; do
    command -v $tool >/dev/null || {
        echo "No root here, and $tool cannot be unpacked without it. Ask for: apt-get install$missing" >&2
        exit 1
    }
done
echo "unpacking into build/sysroot, since there is no root here, about a minute:$missing" >&2
root=$PWD/build/sysroot
mkdir -p "$root/apt/lists/partial" "$root/apt/archives/partial"
# The lists of packages and the archives are this folder's own; what is installed, the system says.
own="-o Dir::State=$root/apt -o Dir::State::status=/var/lib/dpkg/status -o Dir::Cache=$root/apt -o Debug::NoLocking=1"
# shellcheck disable=SC2086
apt-get $own $patient update -q >>"$log" 2>&1 || failed
# shellcheck disable=SC2086
{ apt-get $own $patient install -y -q --no-install-recommends --download-only $missing 2>&1 && echo done >"$log.done"; } | count_lines Get:
rm "$log.done" 2>/dev/null || failed
for d in "$root"/apt/archives/*.deb; do dpkg -x "$d" "$root"; done
rm -rf "$root/apt"
for p in $missing; do : >"$root/.have-$p"; done

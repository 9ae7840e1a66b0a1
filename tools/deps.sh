#!/bin/sh
# Installs the Debian packages Fathom needs: tools/deps.sh build|test|full
# (full: also the programs without which some tests skip: browser, proxies, Prometheus, gnuplot)
#
# Does nothing when all are there. As root, or with a sudo that asks nothing, it uses apt-get;
# otherwise it downloads the packages and unpacks them under build/sysroot, where the
# Makefile looks first, so no privileges are needed.
set -eu
cd "$(dirname "$0")/.."
what=${1:-build}

build="gcc make pkg-config libmicrohttpd-dev libuv1-dev libjansson-dev libpcre2-dev libutf8proc-dev libcurl4-openssl-dev curl jq"
test="libcriterion-dev g++ clang libclang-rt-14-dev nodejs npm procps json-schema-test-suite"
want=$build
[ "$what" = test ] && want="$build $test"
full="chromium gnuplot-nox nginx-light haproxy prometheus openssl"
[ "$what" = full ] && want="$build $test $full"

# A command that is there serves whoever packaged it; libraries are asked of dpkg.
have() {
    case $1 in
    gcc | g++ | make | curl | clang | jq | npm) command -v "$1" >/dev/null ;;
    nodejs) command -v node >/dev/null ;;
    pkg-config) command -v pkg-config >/dev/null ;;
    gnuplot-nox) command -v gnuplot >/dev/null ;;
    nginx-light | haproxy) [ -x "/usr/sbin/${1%-light}" ] ;;
    prometheus | openssl | chromium) command -v "$1" >/dev/null ;;
    procps) command -v pgrep >/dev/null ;;
    *) dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q 'ok installed' || [ -e "build/sysroot/.have-$1" ] ;;
    esac
}
missing=
for p in $want; do have "$p" || missing="$missing $p"; done
[ -z "$missing" ] && exit 0
command -v apt-get >/dev/null || {
    echo "fathom needs these Debian 12 packages, or their like:$missing" >&2
    exit 1
}
echo "installing:$missing" >&2
if [ "$(id -u)" = 0 ]; then as=
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then as=sudo
else as=none
fi
if [ "$as" != none ]; then
    export DEBIAN_FRONTEND=noninteractive
    $as apt-get update -qq
    # shellcheck disable=SC2086
    $as apt-get install -y -qq --no-install-recommends $missing >/dev/null
    exit 0
fi

for tool in gcc make; do
    command -v $tool >/dev/null || {
        echo "no root here, and $tool cannot be unpacked without it: ask for 'apt-get install$missing'" >&2
        exit 1
    }
done
mkdir -p build/sysroot/debs
(
    cd build/sysroot/debs
    # shellcheck disable=SC2086
    deps=$(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks \
        --no-replaces --no-enhances $missing | grep '^lib' | sort -u)
    for p in $missing $deps; do
        dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed' && continue
        apt-get download -qq "$p" 2>/dev/null || true
    done
    for d in *.deb; do dpkg -x "$d" ..; done
)
for p in $missing; do : >"build/sysroot/.have-$p"; done

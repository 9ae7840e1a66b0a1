#!/bin/bash
# Installing and packages: what make install puts down runs and is removed again whole; the source archive is the same twice and
# builds; the program is the same in two folders; Debian's packages pass lintian, and serve in a bare Debian.
# Says what it left out, and ends 77 if that is all. COPIES=0 leaves out the builds in other folders. DEBIAN_TREE=FILE: an archive of a
# bare Debian 12, which saves debootstrap.
set -u
cd "$(dirname "$0")/../.."
here=$PWD
tmp=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null; wait; rm -rf "$tmp"' EXIT
failed=0 ran=0 left=()
good() { ran=$((ran + 1)); echo "ok $*"; }
bad() { ran=$((ran + 1)); failed=1; echo "FAIL $*"; }
check() { # WORDS COMMAND...
    local words=$1; shift
    if "$@" >"$tmp/out" 2>&1; then good "$words"; else bad "$words"; tail -30 "$tmp/out"; fi
}
have() { command -v "$1" >/dev/null; }
quiet_make() { make --no-print-directory -j2 CUDA=0 MPI=0 "$@"; }

# Starts the program on a free port, asks it, and ends it. Its model comes from its own folders.
serves() { # PROGRAM MODEL
    local url
    : >"$tmp/log" # the log of the server before this one also says "ready"
    (cd "$tmp" && HOME=$tmp exec "$1" serve "$2" --device cpu --threads 1 --port 0 2>"$tmp/log") & server=$!
    for _ in $(seq 1200); do grep -q ' ready on ' "$tmp/log" && break; kill -0 $server 2>/dev/null || break; sleep 0.1; done
    url=$(sed -n 's/.* ready on \(http[^ ]*\) after.*/\1/p' "$tmp/log")
    [ -n "$url" ] || { cat "$tmp/log"; return 1; }
    "$1" health "$url" --ready || return 1
    kill $server && wait $server && server=
}

# ---- make install ----

installed() { # prefix=… DESTDIR=…, the folder, and where the program is
    quiet_make install-strip "$@" || return 1
    grep -q '^\.TH' "$share"/man/man1/fathom-serve.1 && grep -q fathom "$share"/bash-completion/completions/fathom || { echo "no manual or completion"; return 1; }
    [ -x "$bin/fathom" ] && ! readelf -S "$bin/fathom" | grep -q '\.symtab' || { echo "not there, or not stripped"; return 1; }
}
leaves_nothing() { # FOLDER make's variables
    local folder=$1; shift
    quiet_make uninstall "$@" || return 1
    find "$folder" -type f -o -type l | grep . && { echo "these files are left"; return 1; }
    find "$folder" -type d -name 'fathom*' | grep . && { echo "these folders are left"; return 1; }
    return 0
}
where=(prefix="$tmp/own/local" sysconfdir="$tmp/own/etc")
bin=$tmp/own/local/bin share=$tmp/own/local/share
check "make install-strip takes a prefix" installed "${where[@]}"
check "the installed program serves its own demo model" serves "$bin/fathom" demo
check "and hops" serves "$bin/fathom" hops
unit=$tmp/own/local/lib/systemd/system/fathom.service
unit_says() { grep -qx "ExecStart=$bin/fathom serve" "$unit" && grep -q "=-$tmp/own/etc/default/fathom\$" "$unit" && ! grep -n '@[a-z]*@' "$unit"; }
check "the unit names the folders of this installation" unit_says
if have systemd-analyze; then check "systemd takes the installed unit" systemd-analyze verify --man=no "$unit"; else left+=("systemd-analyze verify"); fi
check "uninstall leaves nothing" leaves_nothing "$tmp/own" "${where[@]}"
check "the options file that was changed is kept" sh -c "
    make --no-print-directory install CUDA=0 MPI=0 ${where[*]} && echo FATHOM_PORT=8099 >>$tmp/own/etc/default/fathom &&
    make --no-print-directory install CUDA=0 MPI=0 ${where[*]} && make --no-print-directory uninstall ${where[*]} && grep -qx FATHOM_PORT=8099 $tmp/own/etc/default/fathom"
where=(DESTDIR="$tmp/staged" prefix=/usr bindir=/usr/libexec/f datadir=/opt/data)
bin=$tmp/staged/usr/libexec/f share=$tmp/staged/usr/share
check "DESTDIR, bindir and datadir are heeded" installed "${where[@]}"
check "the system's options stand in /etc" test -f "$tmp/staged/etc/default/fathom" -a -f "$tmp/staged/opt/data/fathom/models/hops/config.json"
check "and uninstalled from there" leaves_nothing "$tmp/staged" "${where[@]}"

# ---- make dist, and the same bytes everywhere ----

if git rev-parse -q --verify HEAD >/dev/null 2>&1; then
    twice() {
        quiet_make dist && cp build/dist/fathom-*.tar.gz "$tmp/first.tar.gz" && sleep 1 && touch README.md && quiet_make dist &&
            cmp "$tmp/first.tar.gz" build/dist/fathom-*.tar.gz && (cd build/dist && sha256sum -c SHA256SUMS)
    }
    check "make dist gives the same bytes twice, and their checksum" twice
    if [ "${COPIES:-1}" != 0 ]; then
        copy() { # FOLDER
            mkdir -p "$tmp/$1" && tar -xzf "$tmp/first.tar.gz" -C "$tmp/$1" --strip-components=1 && make -C "$tmp/$1" -j2 CUDA=0 MPI=0 all
        }
        check "the source archive builds" copy a
        check "and in another folder" copy other/and/longer
        check "to the same program" cmp "$tmp/a/build/release/fathom" "$tmp/other/and/longer/build/release/fathom"
        no_path() { ! strings -a "$tmp/a/build/release/fathom" | grep -F "$tmp"; }
        check "which does not tell where it was built" no_path
        rm -rf "$tmp/a" "$tmp/other"
    else left+=("builds in two folders (COPIES=0)"); fi
else left+=("make dist (no git here)"); fi

# ---- make deb ----

if have dh && have dpkg-buildpackage; then
    check "make deb" env DEB_BUILD_OPTIONS=parallel=2 make --no-print-directory deb
    debs=$here/build/deb
    if have lintian; then
        clean() { lintian --allow-root --fail-on error,warning,info "$debs"/*.changes; }
        check "lintian has nothing to say" clean
    else left+=("lintian"); fi
    if [ "$(id -u)" = 0 ] && have debootstrap; then
        root=$tmp/debian
        bare() {
            if [ -n "${DEBIAN_TREE:-}" ]; then mkdir "$root" && tar -C "$root" -xf "$DEBIAN_TREE"
            else debootstrap --variant=minbase bookworm "$root"; fi && cp "$debs"/*.deb "$root/tmp/"
        }
        in_debian() { chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive sh -ec "$1"; }
        answers='rm -f /tmp/log; fathom serve --port 0 2>/tmp/log & server=$!
            for i in $(seq 1200); do grep -q " ready on " /tmp/log && break; sleep 0.1; done
            fathom health "$(sed -n "s/.* ready on \(http[^ ]*\) after.*/\1/p" /tmp/log)" --ready
            kill $server; wait $server; cat /tmp/log; grep -q " model $MODEL: " /tmp/log'
        if bare >"$tmp/out" 2>&1; then
            check "apt install ./fathom_*.deb" in_debian 'apt-get update -q && cd /tmp && apt-get install -y -q --no-install-recommends ./fathom_*.deb'
            check "fathom serve, with no more words, serves hops" in_debian "MODEL=hops; $answers"
            check "apt install ./fathom-models_*.deb" in_debian 'cd /tmp && apt-get install -y -q ./fathom-models_*.deb'
            check "fathom serve then serves demo" in_debian "MODEL=demo; $answers"
            check "the service is there, and not started" in_debian 'test -f /lib/systemd/system/fathom.service && ! test -e /etc/systemd/system/multi-user.target.wants/fathom.service'
            check "purged, nothing is left" in_debian 'apt-get purge -y -q fathom fathom-models && ! find / -xdev -path /proc -prune -o -path /tmp -prune -o -path /var -prune -o -name "*fathom*" -print | grep .'
        else left+=("apt in a bare Debian ($(tail -1 "$tmp/out"))"); fi
        echo "sizes: $(cd "$debs" && stat -c '%n %s' *.deb | tr '\n' ' ')"
    else left+=("apt in a bare Debian (root, debootstrap)"); fi
else left+=("make deb (debhelper)"); fi

[ ${#left[@]} -gt 0 ] && { printf 'left out:'; printf ' %s;' "${left[@]}"; echo; }
[ "$ran" -gt 0 ] || exit 77
echo "packages: $ran checks"
exit $failed

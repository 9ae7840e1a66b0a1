#!/bin/bash
# Builds the image of the Dockerfile by buildah, over a bare Debian 12 under the name that the file asks for, and runs it: it answers
# a request as its own user, and its health check knows whether it lives. Ends 0, 1 with what was not as said, or 77 without buildah,
# debootstrap or root. DEBIAN_TREE=FILE: an archive of a bare Debian 12, which saves debootstrap.
set -eu
cd "$(dirname "$0")/../../.."
skip() { echo "skipped: $*"; exit 77; }
command -v buildah >/dev/null || skip "no buildah"
command -v debootstrap >/dev/null || [ -n "${DEBIAN_TREE:-}" ] || skip "no debootstrap"
[ "$(id -u)" = 0 ] || skip "building over a tree of files needs root"

dir=$(mktemp -d)
server=
tidy() {
    [ -z "$server" ] || kill "$server" 2>/dev/null || true
    wait
    buildah rm --all >/dev/null 2>&1 || true
    rm -rf "$dir"
}
trap tidy EXIT
fail() { echo "FAIL: $*"; exit 1; }
# Nothing of this is in the storage of the machine's own images.
cat >"$dir/storage.conf" <<END
[storage]
driver = "vfs"
runroot = "$dir/run"
graphroot = "$dir/images"
END
export CONTAINERS_STORAGE_CONF=$dir/storage.conf STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot

# ---- the base ----

base=$(sed -n 's/^FROM \([^ ]*\)$/\1/p' Dockerfile | tail -1)
if [ -n "${DEBIAN_TREE:-}" ]; then mkdir "$dir/debian" && tar -C "$dir/debian" -xf "$DEBIAN_TREE"
else debootstrap --variant=minbase bookworm "$dir/debian" >"$dir/log" 2>&1 || { tail -5 "$dir/log"; skip "debootstrap did not reach its mirror"; }; fi
# As in the image of that name: apt keeps no caches, and there is no documentation.
printf 'APT::Update::Post-Invoke { "rm -f /var/cache/apt/*.bin || true"; };\nDir::Cache::pkgcache ""; Dir::Cache::srcpkgcache "";\n' \
    >"$dir/debian/etc/apt/apt.conf.d/docker-clean"
printf 'path-exclude /usr/share/doc/*\npath-exclude /usr/share/man/*\npath-exclude /usr/share/locale/*\n' >"$dir/debian/etc/dpkg/dpkg.cfg.d/docker"
rm -rf "$dir"/debian/var/cache/apt/*.bin "$dir"/debian/var/cache/apt/archives/*.deb "$dir"/debian/var/lib/apt/lists/* \
    "$dir"/debian/usr/share/doc/* "$dir"/debian/usr/share/man/* "$dir"/debian/usr/share/locale/*
tree=$(buildah from scratch)
buildah add -q "$tree" "$dir/debian" / >/dev/null
buildah commit -q "$tree" "localhost/$base" >/dev/null
rm -rf "$dir/debian"

# ---- what the builder is sent ----

printf 'FROM scratch\nCOPY . /\n' >"$dir/Context"
buildah bud -q -f "$dir/Context" -t context . >/dev/null
sent=$(buildah mount "$(buildah from --pull-never context)")
for word in .git build docs tests/http bench/results README.md; do
    [ ! -e "$sent/$word" ] || fail "a change of $word would build the image again"
done
[ "$(du -sm "$sent" | cut -f1)" -lt 20 ] || fail "the context has $(du -sm "$sent" | cut -f1) MB"

# ---- the image ----

# The format of Docker: images of OCI have no health checks.
buildah bud --format docker --isolation chroot --network host --pull-never --build-arg COMMIT=0123456789ab -t fathom . >"$dir/log" 2>&1 || {
    tail -30 "$dir/log"
    fail "the image does not build"
}
about=$(buildah inspect --type image fathom | jq -c .Docker.config)
for words in '"User":"fathom"' '"Entrypoint":\["/usr/bin/fathom"\]' '"org.opencontainers.image.revision":"0123456789ab"' \
    "\"org.opencontainers.image.version\":\"$(sed -n 's/^VERSION := //p' Makefile)\""; do
    grep -q "$words" <<<"$about" || fail "the image does not say $words: $about"
done
box=$(buildah from --pull-never fathom)
inside() { buildah run --isolation chroot --network host "$box" -- "$@"; }
has() { inside sh -c "$1" >/dev/null || fail "in the image: $2"; }
has 'test "$(id -u)" = 10001' "the user is not 10001"
has '! command -v curl && ! command -v gcc' "there are programs that it does not need"
has 'for m in demo hops hops-extrapolates; do test -f /usr/share/fathom/models/$m/model.safetensors || exit 1; done' "a model is missing"
has '! find / -xdev -name "*.c" -o -xdev -name "*.o" 2>/dev/null | grep -q fathom' "it holds sources"

# ---- a container ----

# The command and the health check as the image has them, on a free port of this machine.
mapfile -t command < <(jq -r '(.Entrypoint + .Cmd)[]' <<<"$about")
mapfile -t health < <(jq -r '.Healthcheck.Test[1:][]' <<<"$about")
[ "${health[*]}" = "/usr/bin/fathom health" ] || fail "the health check is ${health[*]}"
url=http://127.0.0.1:1 # reserved, so no server listens there
! inside "${health[@]}" "$url" >"$dir/out" 2>&1 || fail "the health check finds a server where none is"
for _ in $(seq 20); do # another program may take the port that was free
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    url=http://127.0.0.1:$port
    : >"$dir/served"
    buildah run --isolation chroot --network host --env FATHOM_PORT="$port" "$box" -- "${command[@]}" >"$dir/served" 2>&1 & server=$!
    for _ in $(seq 1200); do grep -q ' ready on ' "$dir/served" && break; kill -0 $server 2>/dev/null || break; sleep 0.1; done
    grep -q 'Address already in use' "$dir/served" || break
done
grep -q "listening on http://0.0.0.0:$port" "$dir/served" || fail "the server does not listen to the outside: $(cat "$dir/served")"
inside "${health[@]}" "$url" >"$dir/out" 2>&1 || fail "the health check does not find the server: $(cat "$dir/out")"
inside "${health[@]}" "$url" --ready >"$dir/out" 2>&1 || fail "the server is not ready: $(cat "$dir/out")"
answer=$(curl -s -m 60 -H 'Content-Type: application/json' -d '{"prompt": "In the beginning", "max_tokens": 8, "temperature": 0}' "$url/v1/completions")
[ "$(jq -r '.usage.completion_tokens' <<<"$answer")" = 8 ] || fail "the answer is $answer"
pid=
for process in /proc/[0-9]*; do # the one with this port, whoever else runs a server here
    case $(readlink "$process/exe") in */usr/bin/fathom) ;; *) continue ;; esac
    tr '\0' '\n' <"$process/environ" 2>/dev/null | grep -qx "FATHOM_PORT=$port" && pid=${process#/proc/}
done
[ -n "$pid" ] && [ "$(stat -c %u "/proc/$pid")" = 10001 ] || fail "the server does not run as user 10001"
kill -TERM "$pid"
wait $server || fail "SIGTERM ends the container with $?: $(tail -3 "$dir/served")"
server=
grep -q ' stopped$' "$dir/served" || fail "the server did not drain: $(tail -3 "$dir/served")"

size() { buildah images --format '{{.Size}}' "$1" | head -1; }
echo "image $(size fathom), of which the base $(size "localhost/$base")"

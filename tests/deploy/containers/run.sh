#!/bin/sh
# In real control groups: `serve` says how many threads it runs and how large its cache is and why,
# and `inspect` counts with the group's memory. Version 1 or 2, whichever holds the controllers here.
# Ends 0, 1 with what was not as said, or 77 where no groups can be made.
set -eu
cd "$(dirname "$0")/../../.."
fathom=$PWD/build/fathom
dir=$(mktemp -d)
made=
server=
tidy() {
    [ -z "$server" ] || kill "$server" 2>/dev/null || true
    wait
    for g in $made; do rmdir "$g" 2>/dev/null || true; done
    rm -rf "$dir"
}
trap tidy EXIT
fail() { echo "FAIL: $*"; cat "$dir/err" 2>/dev/null; exit 1; }
skip() { echo "$*"; exit 77; }

[ "$(nproc)" -gt 1 ] || skip "one core: a quota would change nothing"

# The folder of this process's group in the hierarchy of a controller, and which version it is.
group_of() { # CONTROLLER
    own=$(sed -n "s/^[0-9]*:\(.*,\)\{0,1\}$1\(,.*\)\{0,1\}:\(.*\)/\3/p" /proc/self/cgroup | head -1)
    if [ -n "$own" ]; then
        top=$(awk -v c="$1" '{t = $0; sub(/.* - /, "", t); split(t, f, " ")
            if (f[1] == "cgroup" && ("," f[3] ",") ~ ("," c ",")) print $5}' /proc/self/mountinfo | tail -1)
        echo "v1 $top$own"
    else
        own=$(sed -n 's/^0::\(.*\)/\1/p' /proc/self/cgroup)
        top=$(awk '/ - cgroup2 /{print $5}' /proc/self/mountinfo | tail -1)
        echo "v2 $top$own"
    fi
}
make_group() { # NAME: prints the folders of a new group, one of each hierarchy
    for c in cpu memory; do
        set -- "$1" $(group_of $c)
        [ "$2" = v1 ] || echo "+$c" >"$3/cgroup.subtree_control" || return 1
        [ -d "$3/$1" ] || mkdir "$3/$1" || return 1
        echo "$3/$1"
    done
}
cpu_quota() { # FOLDER PERCENT
    if [ -e "$1/cpu.max" ]; then echo "$2""000 100000" >"$1/cpu.max"
    else echo 100000 >"$1/cpu.cfs_period_us" && echo "$2""000" >"$1/cpu.cfs_quota_us"; fi
}
memory_limit() { # FOLDER BYTES
    if [ -e "$1/memory.max" ]; then echo "$2" >"$1/memory.max"
    else echo "$2" >"$1/memory.limit_in_bytes"; fi
}
inside() { # COMMAND...: in the groups, and in the place of this shell
    exec sh -c 'for g in '"$inner"'; do echo $$ >"$g/cgroup.procs"; done; exec "$@"' sh "$@"
}
serve_says() { # OPTIONS...: the log of a server that got ready, in $dir/err
    : >"$dir/err" # the log of the server before this one also says "ready"
    inside "$fathom" serve --device cpu --port 0 "$@" 2>"$dir/err" &
    server=$!
    for _ in $(seq 1200); do # the limit is for what never comes
        grep -q ' ready on ' "$dir/err" && break
        kill -0 $server 2>/dev/null || fail "the server ended"
        sleep 0.1
    done
    kill $server && wait $server || fail "the server ended with $?"
    server=
}
said() { grep -q -- "$1" "$dir/err" || fail "the log does not say: $1"; }

groups=$(make_group "fathom-test-$$" 2>/dev/null) || { made=$groups; skip "no control groups can be made here"; }
made=$groups
cpu=$(echo "$groups" | head -1) memory=$(echo "$groups" | tail -1)
inner=$(echo $groups)
cpu_quota "$cpu" 100 2>/dev/null && memory_limit "$memory" 314572800 2>/dev/null ||
    skip "control groups without limits here"
cores=$(nproc)

"$fathom" init --variant tiny --out "$dir/model" >/dev/null 2>&1
jq '.max_seq_len = 4096' "$dir/model/config.json" >"$dir/c" && mv "$dir/c" "$dir/model/config.json"

serve_says --model "$dir/model"
said "1 thread: $cores cores, cgroup quota 1,"
said "MB, a quarter of 314.6 MB, the cgroup's limit)"
slots=$(sed -n 's/.*cache [0-9]* slots of [0-9]* bytes (\([0-9.]*\) MB.*/\1/p' "$dir/err")
awk -v mb="$slots" 'BEGIN {exit !(mb > 60 && mb < 79)}' || fail "a cache of $slots MB in 314.6"
serve_says --model "$dir/model" --threads 2 --kv-memory 20M
said "2 threads: --threads,"
said "MB, --kv-memory)"
(inside "$fathom" inspect --model "$dir/model") >"$dir/err"
said "fits in 314.6 MB of memory that the cgroup allows"

# A tighter ancestor binds, and less than one processor is one thread.
if [ -e "$cpu/cpu.cfs_quota_us" ] && [ -e "$memory/memory.limit_in_bytes" ]; then
    mkdir "$cpu/inner" "$memory/inner"
    made="$cpu/inner $memory/inner $made"
    inner="$cpu/inner $memory/inner"
    cpu_quota "$cpu" 50
    serve_says --model "$dir/model"
    said "1 thread: $cores cores, cgroup quota 0.5,"
    said "a quarter of 314.6 MB, the cgroup's limit)"
fi
echo "served in groups of 1 and 0.5 processors and 300 MB"

#!/bin/sh
# One model over the processes of mpirun (Open MPI): answers have the bits of one process, signals and losses end all of them,
# and two network namespaces stand for two machines. Bits of every family, policy and format of weights: tests/golden/test_ranks.c.
# Exit 77 without Open MPI (openmpi-bin, libopenmpi-dev); the part with two networks needs root and ip.
set -eu
cd "$(dirname "$0")/../.."
command -v mpirun >/dev/null && mpirun --version 2>/dev/null | grep -q 'Open MPI' || { echo "skipped: no mpirun of Open MPI (openmpi-bin)"; exit 77; }
[ -e build/fathom-mpi.so ] || { echo "skipped: built without mpi.h, so there is no fathom-mpi.so (libopenmpi-dev)"; exit 77; }
fathom=$PWD/build/release/fathom
dir=$(mktemp -d /tmp/fathom-ranks-XXXXXX)
port=
patience=300 # seconds until what never comes is given up; judges no speed
mpirun_pid=
networks=
export FATHOM="$fathom" TMPDIR="$dir" RANKS_FOLDER="$dir"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
fail() { echo "FAIL: $*"; [ ! -s "$dir/log" ] || tail -20 "$dir/log"; exit 1; }
clean() {
    [ -z "$mpirun_pid" ] || kill -9 "$mpirun_pid" 2>/dev/null || :
    for pid in $(ranks_of_server); do kill -9 "${pid#*:}" 2>/dev/null || :; done
    for net in $networks; do
        ip netns pids "$net" 2>/dev/null | xargs -r kill -9 2>/dev/null || :
        ip netns del "$net" 2>/dev/null || :
    done
    rm -rf "$dir"
}
# RANK:PID of each living process of this script's server: it has the folder in its environment.
ranks_of_server() {
    for pid in $(pgrep -f "serve .* --port 0"); do
        [ "$(readlink "/proc/$pid/exe" 2>/dev/null)" = "$fathom" ] || continue
        cat "/proc/$pid/environ" 2>/dev/null | tr '\0' '\n' >"$dir/environ"
        grep -qxF "RANKS_FOLDER=$dir" "$dir/environ" || continue
        echo "$(sed -n 's/^OMPI_COMM_WORLD_RANK=//p' "$dir/environ"):$pid"
    done
}
pid_of() { ranks_of_server | sed -n "s/^$1://p"; }
over() { n=$1; shift; timeout $patience mpirun -n "$n" "$fathom" "$@"; }
trap clean EXIT

# ---- answers of several processes have the bits of one ----

same_logits() { # RANKS MODEL OPTIONS...
    n=$1 model=$2; shift 2
    echo '[[1,7,3,9,12,5,2,8,11,4,6,10],[3,1,4,1,5]]' >"$dir/ids"
    "$fathom" score --model "$model" --ids "$dir/ids" --device cpu --logits "$dir/one" "$@" >"$dir/one.txt" 2>/dev/null || fail "score $model $*"
    over "$n" score --model "$model" --ids "$dir/ids" --device cpu --logits "$dir/many" "$@" >"$dir/many.txt" 2>"$dir/log" \
        || fail "score $model $* on $n ranks"
    [ -s "$dir/one" ] || fail "no logits of $model"
    cmp -s "$dir/one" "$dir/many" || fail "logits of $model $* differ on $n ranks"
    cmp -s "$dir/one.txt" "$dir/many.txt" || fail "depths of $model $* differ on $n ranks"
    echo "ok   $model on $n ranks $*"
}
mythos=tests/golden/cases families=tests/golden/families
same_logits 2 $mythos/mla --halted-kv exact
same_logits 3 $mythos/mla --weights int8 --halted-kv last
same_logits 4 $mythos/gqa --weights bf16 --halted-kv exact
same_logits 3 $mythos/gqa --halted-kv last
same_logits 2 $families/ouro --halted-kv exact
same_logits 4 $families/ouro --weights int8 --halted-kv last
same_logits 2 $mythos/mla --rank-split sequences --halted-kv last
same_logits 3 $families/ouro --rank-split sequences
for family in huginn nanbeige parcae retro_llama retro_olmo; do same_logits 3 $families/$family; done

generate() { "$@" generate --model models/demo --device cpu --prompt 'In the beginning' --max-tokens 48 --temperature 0.8 --seed 5 --json 2>"$dir/log"; }
generate "$fathom" >"$dir/one.json" || fail "generate"
generate over 2 >"$dir/many.json" || fail "generate on 2 ranks"
[ "$(jq -c '[.text,.ids,.depths]' "$dir/one.json")" = "$(jq -c '[.text,.ids,.depths]' "$dir/many.json")" ] || fail "generate differs on 2 ranks"
jq -e '.ranks.n == 2 and .ranks.gathers > 0 and .ranks.messages == .ranks.gathers and .ranks.bytes > 0' "$dir/many.json" >/dev/null || fail "counts of generate"
echo "ok   generate on 2 ranks"

over 2 bench engine --model models/demo --device cpu --max-concurrency 2 --repeat 1 --input-len 8 --output-len 4 --modes full --json \
    >"$dir/bench.json" 2>"$dir/log" || fail "bench engine on 2 ranks"
jq -e '.ranks.gathers > 0 and (.runs[0].tokens > 0)' "$dir/bench.json" >/dev/null || fail "counts of bench engine"
echo "ok   bench engine on 2 ranks"

# ---- ranks that do not go together ----

refused() { # WORDS, arguments of mpirun...
    words=$1; shift
    if timeout $patience mpirun "$@" >"$dir/log" 2>&1; then fail "not refused: $*"; fi
    grep -qF -- "$words" "$dir/log" || fail "expected '$words'"
    echo "ok   refused: $words"
}
one="$fathom generate --model models/demo --device cpu --prompt a --max-tokens 1"
# shellcheck disable=SC2086
{
    refused "differ in the format of the weights (--weights)" -n 1 $one : -n 1 $one --weights int8
    refused "differ in the way to divide the model (--rank-split)" -n 1 $one : -n 1 $one --rank-split sequences
    refused "--rank-split sequences runs on --device cpu only" -n 2 "$fathom" generate --model models/demo --device auto --rank-split sequences --prompt a
    refused "differ in the configuration of the model" -n 1 $one : -n 1 $one --model models/hops
    refused "this command runs in one only" -n 2 "$fathom" compare --model models/demo --text models/demo/held_out.txt
    refused "--device fake runs in one only" -n 2 "$fathom" serve --model models/demo --device fake --port 0
}

# ---- a server ----

within() { # COMMAND...: until it succeeds
    until=$(($(date +%s) + patience))
    until "$@"; do
        [ "$(date +%s)" -lt $until ] || return 1
        sleep 0.05
    done
}
start() { # RANKS OPTIONS...: through the script that passes signals on
    n=$1; shift
    : >"$dir/log" # the log of the server before this one also says where it listens
    deploy/ranks/fathom-ranks "$n" serve --model models/demo --device cpu --port 0 "$@" >"$dir/log" 2>&1 &
    mpirun_pid=$!
    wait_ready
}
is_ready() { # in a network namespace, if one is named
    port=$(sed -n 's/.* listening on http:[^ ,]*:\([0-9][0-9]*\).*/\1/p' "$dir/log")
    kill -0 "$mpirun_pid" 2>/dev/null || fail "the server ended"
    [ -n "$port" ] && "$@" curl -sf -o /dev/null "http://127.0.0.1:$port/ready"
}
wait_ready() { within is_ready "$@" || fail "the server is not ready"; }
none_left() { [ -z "$(ranks_of_server)" ]; }
ended() { # STATUS: the launcher ends with it, and so have all ranks
    begin=$(date +%s%N) rc=0
    wait "$mpirun_pid" || rc=$?
    mpirun_pid=
    took=$((($(date +%s%N) - begin) / 1000000))
    [ "$rc" -eq "$1" ] || fail "status $rc, expected $1"
    # mpirun kills the ranks that are left, and may end before they have.
    within none_left || fail "a rank still runs: $(ranks_of_server)"
}
streams() { # FILE: texts and depths of 8 requests at once
    for i in 1 2 3 4 5 6 7 8; do
        curl -sN "http://127.0.0.1:$port/v1/completions" -H 'Content-Type: application/json' \
            -d "{\"prompt\":\"And the sons of number $i\",\"max_tokens\":$((20 + i)),\"temperature\":0.7,\"seed\":$i,\"stream\":true,\"return_depth\":true}" \
            >"$dir/stream$i" &
        pids="${pids:-} $!"
    done
    # shellcheck disable=SC2086
    wait $pids
    pids=
    for i in 1 2 3 4 5 6 7 8; do sed -n 's/^data: {/{/p' "$dir/stream$i" | jq -c '[.choices[]? | [.text, .depth, .depths, .finish_reason]]'; done >"$1"
}
mkdir "$dir/beside"
cp "$fathom" "$dir/beside/fathom"
plugin() { # SENTENCE: the plug-in beside the program is refused with it
    OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_SIZE=2 "$dir/beside/fathom" generate --model models/demo --prompt x >"$dir/log" 2>&1 && fail "it runs"
    grep -q "$1" "$dir/log" || fail "not refused with: $1"
    echo "ok   refused: $1"
}
echo "no library" >"$dir/beside/fathom-mpi.so"
plugin 'fathom-mpi.so cannot be loaded: '
echo 'const char eng__mpi_plugin_version[] = "0"; int eng__mpi_plugin_open(void) { return 0; }' |
    ${CC:-cc} -shared -fPIC -x c -o "$dir/beside/fathom-mpi.so" -
plugin 'fathom-mpi.so is not version'

for n in '' 0 -1 x 2x 02; do
    rc=0
    deploy/ranks/fathom-ranks "$n" generate >"$dir/log" 2>&1 || rc=$?
    [ "$rc" -eq 2 ] && grep -q 'usage: fathom-ranks N' "$dir/log" || fail "fathom-ranks takes '$n' for a number of ranks"
done
echo "ok   fathom-ranks refuses what is no number of ranks"

: >"$dir/log"
"$fathom" serve --model models/demo --device cpu --port 0 >"$dir/log" 2>&1 &
mpirun_pid=$!
wait_ready
streams "$dir/alone"
kill -TERM "$mpirun_pid"
wait "$mpirun_pid" || fail "one process"
start 2 --drain-seconds $patience
streams "$dir/together"
[ "$(wc -l <"$dir/alone")" -gt 150 ] || fail "the streams are short"
cmp -s "$dir/alone" "$dir/together" || fail "8 streams differ on 2 ranks"
curl -s "http://127.0.0.1:$port/metrics" >"$dir/metrics"
grep -qE '^fathom_ranks\{.*\} 2$' "$dir/metrics" || fail "no fathom_ranks"
grep -qE '^fathom_rank_bytes_total\{.*\} [1-9]' "$dir/metrics" || fail "no bytes of gathers"
grep -q 'rank 1 of 2 by mpi: device cpu' "$dir/log" || fail "rank 1 does not say what it holds"
long='{"prompt":"In the beginning","max_tokens":600,"ignore_eos":true,"stream":true}'
stream_long() {
    : >"$dir/long"
    curl -sN "http://127.0.0.1:$port/v1/completions" -H 'Content-Type: application/json' -d "$long" >"$dir/long" &
    curl_pid=$!
    within test -s "$dir/long" || fail "the long stream does not begin"
}
stream_long
kill -TERM "$mpirun_pid"
ended 0
wait "$curl_pid" || fail "the drained stream was cut"
grep -q '\[DONE\]' "$dir/long" || fail "the drained stream has no end"
echo "ok   8 streams on 2 ranks; SIGTERM drains and ends with 0"

# A cache per rank, with little more room than the streams take.
pages() { curl -s "http://127.0.0.1:$port/metrics" | sed -n 's/^vllm:cache_config_info.*,pages="\([0-9]*\)".*/\1/p'; }
start 2 --kv-memory 256K
pages_of_one=$(pages)
kill -TERM "$mpirun_pid"
ended 0
start 2 --rank-split sequences --kv-memory 256K
streams "$dir/at_home"
cmp -s "$dir/alone" "$dir/at_home" || fail "8 streams differ on 2 ranks with a home for each"
[ "$(pages)" -eq $((2 * pages_of_one)) ] || fail "$(pages) pages on 2 ranks, $pages_of_one with columns"
curl -s "http://127.0.0.1:$port/metrics" >"$dir/metrics"
[ "$(grep -cE '^fathom_home_cache_pages\{.*home="[01]",state="(free|cached|used)"\}' "$dir/metrics")" -eq 6 ] || fail "no pages of each home"
kill -TERM "$mpirun_pid"
ended 0
echo "ok   8 streams on 2 ranks, each with its attention and its cache on one of them; together they hold twice as much"

lost_rank() { # what is killed, busy or idle
    start 3 --rank-seconds 600
    [ "$2" = idle ] || stream_long
    kill -9 "$(pid_of "$1")"
    ended 137
    [ $took -lt 300000 ] || fail "the loss was waited for" # half of --rank-seconds
    [ "$2" = idle ] || wait "$curl_pid" || :
    grep -q "of 3: the process of rank $1 has ended, so this one ends too" "$dir/log" || fail "no sentence about rank $1"
    echo "ok   kill -9 of rank $1, $2: all end, within $took ms"
}
lost_rank 1 busy
lost_rank 2 idle
lost_rank 0 busy

# ---- two networks: messages go over TCP, and a rank behind a cut cable is noticed ----

if [ "$(id -u)" -ne 0 ] || ! command -v ip >/dev/null || ! ip netns add fathom-ranks-a$$ 2>/dev/null; then
    echo "skip two networks: needs root and ip netns"
    exit 0
fi
near=fathom-ranks-a$$ far=fathom-ranks-b$$
networks="$near $far"
ip netns add $far
ip link add veth-a netns $near type veth peer name veth-b netns $far
for end in "$near veth-a 10.99.7.1" "$far veth-b 10.99.7.2"; do
    # shellcheck disable=SC2086
    set -- $end
    ip -n "$1" addr add "$3/24" dev "$2"
    ip -n "$1" link set lo up
    ip -n "$1" link set "$2" up
done
printf '#!/bin/sh\nshift\nexec ip netns exec %s sh -c "$*"\n' $far >"$dir/agent" # HOST COMMAND
chmod +x "$dir/agent"
net=10.99.7.0/24
across() {
    timeout $patience ip netns exec $near mpirun --mca plm_rsh_agent "$dir/agent" --mca btl tcp,self --mca btl_tcp_if_include $net \
        --mca oob_tcp_if_include $net --host 10.99.7.1:1,10.99.7.2:1 -n 2 "$fathom" "$@"
}
received() { ip netns exec $near cat /proc/net/dev | sed -n 's/^ *veth-a: *\([0-9]*\) .*/\1/p'; }
before=$(received)
generate across >"$dir/far.json" || fail "generate over TCP"
[ "$(jq -c '[.text,.ids,.depths]' "$dir/one.json")" = "$(jq -c '[.text,.ids,.depths]' "$dir/far.json")" ] || fail "generate differs over TCP"
bytes=$(jq .ranks.bytes "$dir/far.json")
[ $(($(received) - before)) -ge "$bytes" ] || fail "the network carried fewer than $bytes bytes"
echo "ok   generate over TCP, $bytes bytes received in gathers"

: >"$dir/log"
# So many seconds are more than a rank waits for the processor.
across serve --model models/demo --device cpu --port 0 --rank-seconds 10 >"$dir/log" 2>&1 &
mpirun_pid=$!
inside() { ip netns exec $near "$@"; }
wait_ready inside
# One answer after the other until the server is gone: an idle rank waits for nobody, and a single answer may end before the cable is cut.
while inside curl -sfN "http://127.0.0.1:$port/v1/completions" -H 'Content-Type: application/json' -d "$long" >>"$dir/answers"; do :; done &
curl_pid=$!
within test -s "$dir/answers" || fail "the first answer does not begin"
ip -n $near link set veth-a down
no_rank_0() { [ -z "$(pid_of 0)" ]; }
within no_rank_0 || fail "rank 0 goes on behind a cut cable"
grep -q 'another rank has not answered for 10 seconds' "$dir/log" || fail "no sentence about the cut cable"
wait "$curl_pid" || :
echo "ok   a cut cable ends rank 0 after --rank-seconds"

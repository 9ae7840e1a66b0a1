#!/usr/bin/env bash
# What `make run` does after building: asks the bundled models, prints each answer with the loops
# that it took, and keeps serving until Ctrl+C.
#
# PORT=8080 (0: any free port)   MODEL=models/hops (the folder to serve)   FATHOM_ARGS=options of serve
# It needs bash and build/fathom only. It asks the models in processes of their own, so a program
# that already listens on PORT is never asked.
set -euo pipefail
# If make is killed, this script is told to stop.
if [ -z "${FATHOM_DEMO:-}" ] && command -v setpriv >/dev/null; then
    FATHOM_DEMO=1 exec setpriv --pdeathsig TERM "$0"
fi
cd "$(dirname "$0")/.."
model=${MODEL:-models/hops}
log=build/run.log
server=

stop() {
    trap '' INT TERM HUP
    rm -f "$log.generate"
    if [ -n "$server" ] && kill -TERM "$server" 2>/dev/null; then
        wait "$server" || true
        echo "Fathom has stopped."
    fi
    exit 0
}
trap stop INT TERM HUP
give_up() { # TEXT: with what the server or a command said
    echo "make run: $1; $log ends with:" >&2
    tail -3 "$log" >&2
    exit 1
}

# The server has a session of its own, so that Ctrl+C reaches it once, through stop(). It ends with
# this script, even if the script is killed.
alone=()
command -v setsid >/dev/null && alone+=(setsid)
command -v setpriv >/dev/null && alone+=(setpriv --pdeathsig TERM)
start_server() {
    : >"$log"
    # shellcheck disable=SC2086
    "${alone[@]}" build/fathom serve --model "$model" --host 127.0.0.1 --port "${PORT:-8080}" \
        ${FATHOM_ARGS:-} --log-level info >"$log" 2>&1 &
    server=$!
}
await() { # WORD: until the server logs "WORD on http://…"; sets url
    until url=$(grep -ao "$1 on http://[^ \",]*" "$log"); do
        if ! kill -0 "$server" 2>/dev/null; then
            server=
            grep -q 'in use' "$log" && give_up "another program has the port ${PORT:-8080} (PORT=8081 make run takes another)"
            give_up "the server ended"
        fi
        sleep 0.05
    done
    url=http://${url#*http://}
}

# ---- what the models answer ----

colours=(63 39 78 148 220 214 203 197) # of 1 to 8 loops, from blue to red
tint() { # LOOPS TEXT
    if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then printf '\033[38;5;%dm%s\033[0m' "${colours[$1 - 1]}" "$2"
    else printf '%s' "$2"; fi
}
loops() { [ "$1" = 1 ] && echo "1 loop" || echo "$1 loops"; }
generate() { build/fathom generate "$@" 2>"$log.generate" || { cp "$log.generate" "$log"; give_up "fathom generate failed"; }; }

question="Ann's friend is Kim. Kim's friend is Bob. Bob's friend is Zoe. Zoe's friend is Ann.
Ann's friend's friend's friend is"
ask() { # LABEL OPTIONS...
    local label=$1 answer depth
    shift
    answer=$(generate --model models/hops --show-depth --prompt "$question" "$@")
    depth=${answer##*depths: }
    depth=${depth%%,*}
    printf '    %-16s' "$label"
    tint "$depth" "$(printf '%-8s' "$(head -1 <<<"$answer")")"
    loops "$depth"
}
hops() {
    printf '\nmodels/hops follows friends. One loop of the model is one look-up:\n\n'
    sed 's/^/  /' <<<"$question"
    echo
    ask "at most 1 loop" --max-loops 1
    ask "at most 2 loops" --max-loops 2
    ask "its own depth"
    printf '\nIt was trained on up to 8 look-ups, and stops by itself after as many as the question needs.\n'
}

prompt='And it came to pass in those days'
text() {
    local answer depths n=0 sum=0 piece
    printf '\nmodels/demo continues a text, each token with as many loops as it needs:\n\n> %s' "$prompt"
    answer=$(generate --model models/demo --temperature 0.7 --seed 7 --max-tokens 60 --json --prompt "$prompt")
    read -ra depths <<<"$(sed 's/.*"depths":\[\([0-9,]*\)\].*/\1/; s/,/ /g' <<<"$answer")"
    while read -r piece; do
        printf -v piece '%b' "${piece:1:-1}"
        tint "${depths[n]}" "$piece"
        sum=$((sum + depths[n])) n=$((n + 1))
    done < <(sed 's/.*"ids":\[\([0-9,]*\)\].*/[\1]/; s/,/]\n[/g' <<<"$answer" | build/fathom tokenize --model models/demo --ids-to-text)
    printf '\n\nColours: '
    for n in 1 2 3 4 5 6 7 8; do tint $n " $n"; done
    n=${#depths[@]}
    awk -v n="$n" -v sum=$sum 'BEGIN { printf " loops. Mean of %d tokens: %.2f of 8 loops, so %.0f %% are saved.\n", n, sum / n, 100 - 100 * sum / (8 * n) }'
}

start_server
await listening
hops
text
rm -f "$log.generate"
await ready

body='{"prompt": "In the beginning", "max_tokens": 32, "return_depth": true}'
[ "$model" = models/hops ] && body='{"prompt": "Ann\u0027s friend is Bob. Bob\u0027s friend is Zoe. Zoe\u0027s friend is Ann.\nAnn\u0027s friend\u0027s friend is", "return_depth": true}'
cat <<END

Fathom is serving $model on $url
  the page      $url/
  a completion  curl $url/v1/completions -H 'Content-Type: application/json' -d '$body'
  a talk        build/fathom chat models/demo
  the log       $log
  to stop       Ctrl+C
END
rc=0
wait "$server" || rc=$?
server=
[ $rc -eq 0 ] || give_up "the server ended with status $rc"

#!/usr/bin/env bash
# What `make run` does after building: serves models/demo, asks it something, prints the
# streamed answer with the depth of every token, and keeps serving until Ctrl+C.
set -euo pipefail
cd "$(dirname "$0")/.."
port=${PORT:-8080}
url=http://127.0.0.1:$port

build/fathom serve --model models/demo --host 127.0.0.1 --port "$port" ${FATHOM_ARGS:-} &
server=$!
trap 'kill -TERM $server 2>/dev/null; wait $server' INT TERM
for _ in $(seq 300); do
    curl -fs "$url/ready" >/dev/null 2>&1 && break
    kill -0 $server 2>/dev/null || { wait $server; exit $?; }
    sleep 0.05
done

colours=(39 44 49 118 190 220 208 202 196)
tint() { # DEPTH: from blue (left the loop early) to red (went deep)
    local i=$(($1 - 1)); [ $i -gt 8 ] && i=8
    [ -t 1 ] && printf '\033[38;5;%dm' "${colours[$i]}"
    return 0
}
prompt='And it came to pass in those days'
printf '\n> %s\n' "$prompt"
depths=
while IFS=$'\t' read -r depth text; do
    tint "$depth"
    printf '%b' "$text"
    [ -t 1 ] && printf '\033[0m'
    depths="$depths $depth"
done < <(curl -sN "$url/v1/completions" -H 'Content-Type: application/json' \
    -d "{\"model\":\"demo\",\"prompt\":\"$prompt\",\"max_tokens\":60,\"temperature\":0.7,\"seed\":7,\"stream\":true,\"return_depth\":true}" |
    sed -un 's/^data: {/{/p' |
    jq -r --unbuffered '.choices[0]? | select(.depths) | "\(.depths | max)\t\(.text | gsub("\n"; "\\n"))"')
printf '\n\nloops run for each token:%s\n' "$depths"
cat <<EOF

Fathom is serving on $url
  the page      $url/
  a completion  curl $url/v1/completions -H 'Content-Type: application/json' -d '{"prompt":"In the beginning","max_tokens":32}'
  stop it with Ctrl+C
EOF
wait $server

#!/usr/bin/env bash
# Starts what deploy/ describes in front of a real server: nginx and HAProxy with TLS, Prometheus
# with its rules and every query of the dashboard; systemd judges the unit. Runs what is
# installed and installs nothing. Exit 0 fine, 1 failed, 77 nothing could be run.
set -u
cd "$(dirname "$0")/../../.."
root=$PWD fathom=${FATHOM:-$PWD/build/fathom}
tmp=$(mktemp -d) pids=() ran=() left=() failed=0
PORT=${DEPLOY_TEST_PORT:-$((20000 + RANDOM % 12000))} # this and the four above

stop_all() {
    for p in "${pids[@]}"; do kill "$p" 2>/dev/null; done
    for p in "${pids[@]}"; do wait "$p" 2>/dev/null; done
    rm -rf "$tmp"
}
trap stop_all EXIT
have() { command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ]; }
bad() { echo "FAIL $*"; failed=1; }
good() { echo "ok   $*"; }
check() { # WHAT COMMAND...
    local what=$1; shift
    if "$@" >"$tmp/out" 2>&1; then good "$what"; else bad "$what"; tail -20 "$tmp/out"; fi
}
wait_for() { # COMMAND...: until it succeeds. The end is for what never comes; it judges no speed.
    local until=$((SECONDS + 120))
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -ge $until ] && return 1
        sleep 0.1
    done
}
export PATH=$PATH:/usr/sbin

# ---- the server: an engine without arithmetic that takes 10 ms a token ----
serve_at=http://127.0.0.1:$PORT
"$fathom" serve --model models/demo --device fake --fake-us-per-token 10000 --port "$PORT" --log-level warn 2>"$tmp/fathom.log" &
pids+=($!)
wait_for curl -fs "$serve_at/ready" || { bad "fathom serve starts"; cat "$tmp/fathom.log"; exit 1; }

certificate() {
    openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost \
        -keyout "$tmp/fathom.key" -out "$tmp/fathom.crt" 2>/dev/null
    cat "$tmp/fathom.crt" "$tmp/fathom.key" >"$tmp/fathom.pem"
}
body() { printf '{"model":"demo","prompt":"In the","max_tokens":%d,"stream":true,"ignore_eos":true,"return_depth":true}' "$1"; }
ask() { curl -sN --cacert "$tmp/fathom.crt" --max-time 600 "$@"; }

# Tokens must come one after another. What the reader gets at once is one read: 300 tokens 10 ms
# apart take nearly as many reads, some tens where the reader is slow. A proxy that buffers hands
# on a few kilobytes at a time, which makes a dozen.
streams_token_by_token() { # URL CURL-OPTIONS...
    local url=$1 n reads; shift
    body 300 | ask "$@" -H 'Content-Type: application/json' --data-binary @- "$url/v1/completions" |
        LC_ALL=C dd bs=1M of="$tmp/stream" 2>"$tmp/reads"
    n=$(grep -c '^data: {' "$tmp/stream")
    reads=$(awk -F'[+ ]' '/records in/ { print $1 + $2 }' "$tmp/reads")
    echo "$n events in $reads reads"
    [ "$n" -ge 300 ] && [ "$reads" -ge 25 ]
}
metric() { curl -fs "$serve_at/metrics" | sed -n "s/^$1{.*} //p"; }
is_running() { [ "$(metric vllm:num_requests_running)" = "$1" ]; }
tokens_out() { # once nothing runs any more
    wait_for is_running 0 && sleep 0.2 && metric vllm:generation_tokens_total
}
leaving_cancels() { # URL
    local before after
    before=$(tokens_out)
    body 900 >"$tmp/leaving"
    curl -sN --cacert "$tmp/fathom.crt" -H 'Content-Type: application/json' --data-binary "@$tmp/leaving" "$1/v1/completions" >/dev/null &
    local client=$!
    wait_for is_running 1 || { echo "never ran"; return 1; }
    kill "$client"; wait "$client" 2>/dev/null
    after=$(tokens_out)
    echo "$((after - before)) of 900 tokens were computed"
    [ $((after - before)) -lt 900 ]
}
status_is() { # WANT CURL-ARGS...
    local want=$1 got; shift
    got=$(ask -o /dev/null -w '%{http_code}' "$@")
    echo "status $got"
    [ "$got" = "$want" ]
}
proxy_holds() { # NAME URL
    check "$1 hands tokens on one by one" streams_token_by_token "$2"
    check "$1 does so over HTTP/2" streams_token_by_token "$2" --http2
    check "$1 lets a client's leaving through" leaving_cancels "$2"
    check "$1 serves the page" status_is 200 "$2/"
    check "$1 passes an error as it is" status_is 404 "$2/v1/nothing"
    printf '{"prompt":"%01500000d","max_tokens":1}' 0 >"$tmp/long"
    check "$1 lets 1.5 MB through to be judged by fathom" status_is 400 -H 'Content-Type: application/json' --data-binary "@$tmp/long" "$2/v1/completions"
}

if ! have openssl; then left+=("nginx and haproxy with TLS (openssl)"); else certificate; fi
if have nginx && have openssl; then
    ran+=(nginx)
    mkdir -p "$tmp/nginx/logs"
    sed -e "s/127.0.0.1:808[01]/127.0.0.1:$PORT/" -e "s/listen 443 ssl/listen 127.0.0.1:$((PORT + 1)) ssl/" \
        -e "s/listen 80;/listen 127.0.0.1:$((PORT + 2));/" -e "s#/etc/nginx/fathom#$tmp/fathom#" \
        -e 's/fathom.example.org/localhost/' deploy/nginx/fathom.conf >"$tmp/site.conf"
    cat >"$tmp/nginx.conf" <<CONF
daemon off; pid $tmp/nginx.pid; error_log $tmp/nginx.err warn; worker_processes 1;
$([ "$(id -u)" = 0 ] && echo "user root;")
events { worker_connections 1024; }
http { access_log off; client_body_temp_path $tmp/nginx/b; proxy_temp_path $tmp/nginx/p; fastcgi_temp_path $tmp/nginx/f;
  uwsgi_temp_path $tmp/nginx/u; scgi_temp_path $tmp/nginx/s; include $tmp/site.conf; }
CONF
    check "nginx accepts the configuration" nginx -t -q -p "$tmp" -c "$tmp/nginx.conf" -e "$tmp/nginx.err"
    nginx -p "$tmp" -c "$tmp/nginx.conf" -e "$tmp/nginx.err" &
    pids+=($!)
    at=https://localhost:$((PORT + 1))
    wait_for ask -f "$at/health" || bad "nginx starts"
    proxy_holds nginx "$at"
    check "the load generator speaks TLS" "$fathom" bench --disable-tqdm --insecure --url "$at" --model demo --num-prompts 20 \
        --max-concurrency 4 --input-len 4 --output-len 5 --ignore-eos
    check "nginx keeps /metrics inside" status_is 403 "$at/metrics"
    check "nginx sends http to https" status_is 301 "http://localhost:$((PORT + 2))/"
    # A long body in a file and the refused /metrics are what was asked for.
    if grep -vE 'buffered to a temporary file|access forbidden by rule' "$tmp/nginx.err" >"$tmp/odd"; then
        bad "nginx logged:"; head -5 "$tmp/odd"
    fi
else left+=("nginx (nginx-light)"); fi

if have haproxy && have openssl; then
    ran+=(haproxy)
    export SERVER_ONE=127.0.0.1:$PORT SERVER_TWO=127.0.0.1:$PORT # two replicas: tests/deploy/replicas
    sed -e "s/bind :8443/bind 127.0.0.1:$((PORT + 3))/" -e "s#/etc/haproxy/fathom.pem#$tmp/fathom.pem#" -e 's/maxconn 20000/maxconn 500/' deploy/haproxy/haproxy.cfg >"$tmp/haproxy.cfg"
    check "haproxy accepts the configuration" haproxy -c -f "$tmp/haproxy.cfg"
    haproxy -db -f "$tmp/haproxy.cfg" >"$tmp/haproxy.log" 2>&1 &
    pids+=($!)
    at=https://localhost:$((PORT + 3))
    wait_for ask -f "$at/health" || { bad "haproxy starts"; cat "$tmp/haproxy.log"; }
    proxy_holds haproxy "$at"
    check "haproxy keeps /metrics inside" status_is 404 "$at/metrics"
else left+=("haproxy (haproxy)"); fi

if have promtool; then
    ran+=(promtool)
    check "the rules are well formed" promtool check rules deploy/prometheus/rules.yaml
    check "the rules' own tests hold" promtool test rules deploy/prometheus/rules_test.yaml
    curl -fs "$serve_at/metrics" >"$tmp/metrics"
    # vLLM's names have a colon, which the linter keeps for recorded series, and one histogram
    # of theirs ends like a counter. On purpose: dashboards ask for them by name.
    lint() { promtool check metrics <"$tmp/metrics" 2>&1 | grep -v "^vllm:[a-z0-9_]* metric names should not contain ':'$" |
        grep -v '^vllm:iteration_tokens_total non-counter metrics' >"$tmp/lint"; cat "$tmp/lint"; [ ! -s "$tmp/lint" ]; }
    check "promtool finds the metrics well formed" lint
fi
if have prometheus; then
    ran+=(prometheus)
    cp deploy/prometheus/rules.yaml "$tmp/"
    sed -e "s/fathom:8080/127.0.0.1:$PORT/" -e 's/scrape_interval: 5s/scrape_interval: 1s/' \
        -e 's/evaluation_interval: 15s/evaluation_interval: 1s/' deploy/prometheus/prometheus.yaml >"$tmp/prometheus.yaml"
    prometheus --config.file="$tmp/prometheus.yaml" --storage.tsdb.path="$tmp/tsdb" \
        --web.listen-address="127.0.0.1:$((PORT + 4))" --log.level=warn >"$tmp/prometheus.log" 2>&1 &
    pids+=($!)
    prom=http://127.0.0.1:$((PORT + 4))
    query() { curl -fsG "$prom/api/v1/query" --data-urlencode "query=$1"; }
    is_up() { [ "$(query 'up{job="fathom"} == 1' | jq '.data.result | length')" = 1 ]; }
    check "prometheus scrapes fathom" wait_for is_up
    # Work while it looks, so that rates have something to show.
    for _ in 1 2 3 4; do body 80 | curl -s -H 'Content-Type: application/json' --data-binary @- "$serve_at/v1/completions" >/dev/null; done
    # Two scrapes and an evaluation after that, however long they take here.
    has_rate() { query 'rate(vllm:generation_tokens_total[10m]) > 0' | jq -e '.data.result | length > 0'; }
    mean_depth() { query fathom:mean_depth:rate1m | jq -e '.data.result[0].value[1] | tonumber | . > 1 and . < 3'; }
    wait_for has_rate
    check "prometheus records a mean depth like the fake engine's, between 1 and 3" wait_for mean_depth
    # Every query of the dashboard, and the queries for speculation that vLLM's users have.
    while IFS= read -r expr; do
        asked=${expr//\$instance/.*}
        asked=${asked//\$__rate_interval/10m}
        answer=$(query "$asked")
        # A series nobody has yet is fine (no preemption so far); a query that fails is not.
        if ! jq -e '.status == "success"' <<<"$answer" >/dev/null; then bad "dashboard: $expr"; continue; fi
        n=$(jq '.data.result | length' <<<"$answer")
        if [ "$n" -gt 0 ]; then good "dashboard ($n series): ${expr:0:70}"; else bad "dashboard, no series: $expr"; fi
    done < <(
        jq -r '.panels[].targets[].expr' deploy/grafana/dashboards/fathom.json
        cat <<'END'
rate(vllm:spec_decode_num_accepted_tokens_total[$__rate_interval]) / rate(vllm:spec_decode_num_draft_tokens_total[$__rate_interval])
1 + rate(vllm:spec_decode_num_accepted_tokens_total[$__rate_interval]) / rate(vllm:spec_decode_num_drafts_total[$__rate_interval])
rate(vllm:spec_decode_num_accepted_tokens_per_pos_total[$__rate_interval]) / ignoring(position) group_left rate(vllm:spec_decode_num_drafts_total[$__rate_interval])
END
    )
    curl -fs "$prom/api/v1/rules" | jq -e '[.data.groups[].rules[].health] | all(. == "ok")' >/dev/null &&
        good "all rules are healthy in prometheus" || bad "a rule is not healthy"
else left+=("prometheus (prometheus)"); fi

# Names of a group of calls, groups inside it expanded.
calls_of() { systemd-analyze syscall-filter --no-pager "$1" | sed -n 's/^ \{1,\}//p' | while read -r call; do
    case $call in '#'*) ;; @*) calls_of "$call" ;; *) echo "$call" ;; esac; done; }
# What the unit allows against what a traced server does: start, keep packed weights, answer, stream,
# refuse, show its stack, drain.
filter_suffices() {
    local word sign port used
    cp -r models/demo "$tmp/model"
    : >"$tmp/allowed"
    sed -n 's/^SystemCallFilter=//p' deploy/systemd/fathom.service.in >"$tmp/lines"
    while read -r line; do
        sign=+; case $line in '~'*) sign=-; line=${line#'~'} ;; esac
        for word in $line; do case $word in @*) calls_of "$word" ;; *) echo "$word" ;; esac; done >"$tmp/calls"
        if [ $sign = + ]; then cat "$tmp/calls" >>"$tmp/allowed"
        else grep -vxFf "$tmp/calls" "$tmp/allowed" >"$tmp/rest"; mv "$tmp/rest" "$tmp/allowed"; fi
    done <"$tmp/lines"
    port=$((PORT + 5))
    strace -f -qq -e signal=none -o "$tmp/trace" "$fathom" serve --device cpu --model "$tmp/model" --packed-cache --port $port 2>"$tmp/traced.log" &
    pids+=($!)
    used=http://127.0.0.1:$port
    wait_for curl -fs $used/ready || { cat "$tmp/traced.log"; return 1; }
    body 8 | curl -sN -H 'Content-Type: application/json' --data-binary @- $used/v1/completions >/dev/null
    body 8 | sed 's/"stream":true/"stream":false/' | curl -s -H 'Content-Type: application/json' --data-binary @- $used/v1/completions >/dev/null
    head -c 900000 /dev/zero | tr '\0' '[' | curl -s -H 'Content-Type: application/json' --data-binary @- $used/v1/completions >/dev/null
    curl -s $used/metrics >/dev/null
    curl -s $used/ >/dev/null
    kill -USR1 "$(pgrep -P ${pids[-1]})"; kill -USR2 "$(pgrep -P ${pids[-1]})"; sleep 1
    kill -TERM "$(pgrep -P ${pids[-1]})"
    wait ${pids[-1]} || { cat "$tmp/traced.log"; return 1; }
    sed -n 's/^[0-9]* *\([a-z_0-9]*\)(.*/\1/p' "$tmp/trace" | sort -u >"$tmp/used"
    echo "$(wc -l <"$tmp/used") calls used, $(sort -u "$tmp/allowed" | wc -l) allowed; not allowed:"
    ! grep -vxFf "$tmp/allowed" "$tmp/used"
}
if have systemd-analyze; then
    ran+=(systemd)
    mkdir -p "$tmp/unit"
    sed "s#@bindir@/fathom#$fathom#; s#@docdir@#$PWD#; s#@sysconfdir@#/etc#" deploy/systemd/fathom.service.in >"$tmp/unit/fathom.service"
    verify() { systemd-analyze verify --man=no "$tmp/unit/fathom.service" 2>&1 | tee "$tmp/verify"; ! grep -q fathom.service "$tmp/verify"; }
    check "systemd finds nothing wrong with the unit" verify
    if systemd-analyze security --help 2>/dev/null | grep -q -- --offline; then
        check "systemd rates its exposure at 1.2 or below" systemd-analyze security --offline=yes --threshold=12 --no-pager "$tmp/unit/fathom.service"
    fi
    if have strace; then
        check "the unit's filter has every system call that a server makes" filter_suffices
    else left+=("the unit's filter (strace)"); fi
else left+=("the unit (systemd)"); fi

if docker compose version >/dev/null 2>&1; then
    ran+=(compose)
    for file in compose replicas; do check "docker compose accepts $file.yaml" docker compose -f deploy/compose/$file.yaml config -q; done
else left+=("compose (docker)"); fi

if grep -E 'ALERT|alert:' "$tmp/fathom.log"; then bad "fathom logged an alert"; fi
[ ${#left[@]} -gt 0 ] && { printf 'not run, for want of a Debian package:'; printf ' %s;' "${left[@]}"; echo; }
[ ${#ran[@]} -eq 0 ] && exit 77
echo "deploy: ran ${ran[*]}"
exit $failed

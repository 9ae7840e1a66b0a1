#!/usr/bin/env bash
# Starts what deploy/ describes in front of a real server: nginx and HAProxy with TLS, Prometheus
# with its rules and every query of the dashboard; systemd judges the unit. Runs what is
# installed and installs nothing. Exit 0 fine, 1 failed, 77 nothing could be run.
set -u
cd "$(dirname "$0")/../../.."
root=$PWD fathom=${FATHOM:-$PWD/build/fathom}
tmp=$(mktemp -d) pids=() ran=() left=() failed=0

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
lives() { kill -0 "${pids[-1]}" 2>/dev/null; }
port_in() { sed -n 's/.* listening on http:[^ ,]*:\([0-9][0-9]*\).*/\1/p' "$1"; } # LOG of a server that chose its port
is_ready() { # LOG
    local listens
    listens=$(port_in "$1")
    ! lives || { [ -n "$listens" ] && curl -fs "http://127.0.0.1:$listens/ready"; }
}
# Runs START, which starts a program at $port and the one above, until it answers at the URL. Where one of the ports is taken, at others;
# connections of other programs have ports above these.
start_at_ports() { # LOG URL-SCHEME PATH START
    local log=$1 scheme=$2 path=$3
    answers() { ! lives || curl -fs -m 5 --cacert "$tmp/fathom.crt" "$at$path"; }
    for _ in $(seq 20); do
        port=$((20000 + RANDOM % 12000)) at=$scheme:$port
        rm -f "$log"
        "$4"
        pids+=($!)
        wait_for answers
        lives && return 0
        grep -qi 'in use\|cannot bind' "$log" || break
    done
    cat "$log"
    return 1
}

# ---- the server: an engine without arithmetic that takes 10 ms a token ----
: >"$tmp/fathom.log"
"$fathom" serve --model models/demo --device fake --fake-us-per-token 10000 --port 0 2>"$tmp/fathom.log" &
pids+=($!)
wait_for is_ready "$tmp/fathom.log" && lives || { bad "fathom serve starts"; cat "$tmp/fathom.log"; exit 1; }
PORT=$(port_in "$tmp/fathom.log")
serve_at=http://127.0.0.1:$PORT

certificate() {
    openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost \
        -keyout "$tmp/fathom.key" -out "$tmp/fathom.crt" 2>/dev/null
    cat "$tmp/fathom.crt" "$tmp/fathom.key" >"$tmp/fathom.pem"
}
body() { printf '{"model":"demo","prompt":"In the","max_tokens":%d,"stream":true,"ignore_eos":true,"return_depth":true}' "$1"; }
ask() { curl -sN --cacert "$tmp/fathom.crt" --max-time 600 "$@"; }

# Tokens must come one after another. What the reader gets at once is one read: 300 tokens 10 ms
# apart take nearly as many reads, some tens where the reader is slow. A proxy that buffers hands
# on a few kilobytes at a time, which makes a dozen, each time. A reader that gets no processor for
# seconds has few reads of one stream only.
streams_token_by_token() { # URL CURL-OPTIONS...
    local url=$1 n reads; shift
    for _ in $(seq 10); do
        body 300 | ask "$@" -H 'Content-Type: application/json' --data-binary @- "$url/v1/completions" |
            LC_ALL=C dd bs=1M of="$tmp/stream" 2>"$tmp/reads"
        n=$(grep -c '^data: {' "$tmp/stream")
        reads=$(awk -F'[+ ]' '/records in/ { print $1 + $2 }' "$tmp/reads")
        echo "$n events in $reads reads"
        [ "$n" -ge 300 ] || return 1
        [ "$reads" -lt 25 ] || return 0
    done
    return 1
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
    site() { # PORT, and the one above for plain HTTP
        sed -e "s/127.0.0.1:808[01]/127.0.0.1:$PORT/" -e "s/listen 443 ssl/listen 127.0.0.1:$1 ssl/" \
            -e "s/listen 80;/listen 127.0.0.1:$(($1 + 1));/" -e "s#/etc/nginx/fathom#$tmp/fathom#" \
            -e 's/fathom.example.org/localhost/' deploy/nginx/fathom.conf >"$tmp/site.conf"
    }
    cat >"$tmp/nginx.conf" <<CONF
daemon off; pid $tmp/nginx.pid; error_log $tmp/nginx.err warn; worker_processes 1;
$([ "$(id -u)" = 0 ] && echo "user root;")
events { worker_connections 1024; }
http { access_log off; client_body_temp_path $tmp/nginx/b; proxy_temp_path $tmp/nginx/p; fastcgi_temp_path $tmp/nginx/f;
  uwsgi_temp_path $tmp/nginx/u; scgi_temp_path $tmp/nginx/s; include $tmp/site.conf; }
CONF
    start_nginx() { site "$port"; nginx -p "$tmp" -c "$tmp/nginx.conf" -e "$tmp/nginx.err" & }
    start_at_ports "$tmp/nginx.err" https://localhost /health start_nginx || bad "nginx starts"
    check "nginx accepts the configuration" nginx -t -q -p "$tmp" -c "$tmp/nginx.conf" -e "$tmp/nginx.err"
    proxy_holds nginx "$at"
    check "the load generator speaks TLS" "$fathom" bench --disable-tqdm --insecure --url "$at" --model demo --num-prompts 20 \
        --max-concurrency 4 --input-len 4 --output-len 5 --ignore-eos
    check "nginx keeps /metrics inside" status_is 403 "$at/metrics"
    check "nginx sends http to https" status_is 301 "http://localhost:$((port + 1))/"
    # A long body in a file and the refused /metrics are what was asked for.
    if grep -vE 'buffered to a temporary file|access forbidden by rule' "$tmp/nginx.err" >"$tmp/odd"; then
        bad "nginx logged:"; head -5 "$tmp/odd"
    fi
else left+=("nginx (nginx-light)"); fi

if have haproxy && have openssl; then
    ran+=(haproxy)
    export SERVER_ONE=127.0.0.1:$PORT SERVER_TWO=127.0.0.1:$PORT # two replicas: tests/deploy/replicas
    configure() {
        sed -e "s/bind :8443/bind 127.0.0.1:$port/" -e "s#/etc/haproxy/fathom.pem#$tmp/fathom.pem#" -e 's/maxconn 20000/maxconn 500/' \
            deploy/haproxy/haproxy.cfg >"$tmp/haproxy.cfg"
    }
    start_haproxy() { configure; haproxy -db -f "$tmp/haproxy.cfg" >"$tmp/haproxy.log" 2>&1 & }
    start_at_ports "$tmp/haproxy.log" https://localhost /health start_haproxy || bad "haproxy starts"
    check "haproxy accepts the configuration" haproxy -c -f "$tmp/haproxy.cfg"
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
    start_prometheus() {
        prometheus --config.file="$tmp/prometheus.yaml" --storage.tsdb.path="$tmp/tsdb" \
            --web.listen-address="127.0.0.1:$port" --log.level=warn >"$tmp/prometheus.log" 2>&1 &
    }
    start_at_ports "$tmp/prometheus.log" http://127.0.0.1 /-/ready start_prometheus || bad "prometheus starts"
    prom=$at
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
        # A rule that it names may be evaluated later than the one above.
        has_series() { answer=$(query "$asked") && jq -e '.status == "success" and (.data.result | length > 0)' <<<"$answer"; }
        if wait_for has_series; then good "dashboard ($(jq '.data.result | length' <<<"$answer") series): ${expr:0:70}"
        else bad "dashboard, no series: $expr: $answer"; fi
    done < <(
        jq -r '.panels[].targets[].expr' deploy/grafana/dashboards/fathom.json
        cat <<'END'
rate(vllm:spec_decode_num_accepted_tokens_total[$__rate_interval]) / rate(vllm:spec_decode_num_draft_tokens_total[$__rate_interval])
1 + rate(vllm:spec_decode_num_accepted_tokens_total[$__rate_interval]) / rate(vllm:spec_decode_num_drafts_total[$__rate_interval])
rate(vllm:spec_decode_num_accepted_tokens_per_pos_total[$__rate_interval]) / ignoring(position) group_left rate(vllm:spec_decode_num_drafts_total[$__rate_interval])
END
    )
    are_healthy() { curl -fs "$prom/api/v1/rules" | jq -e '[.data.groups[].rules[].health] | all(. == "ok")'; } # unknown: not evaluated yet
    check "all rules are healthy in prometheus" wait_for are_healthy
else left+=("prometheus (prometheus)"); fi

# Names of a group of calls, groups inside it expanded.
calls_of() { systemd-analyze syscall-filter --no-pager "$1" | sed -n 's/^ \{1,\}//p' | while read -r call; do
    case $call in '#'*) ;; @*) calls_of "$call" ;; *) echo "$call" ;; esac; done; }
# What the unit allows against what a traced server does: start, keep packed weights, answer, stream,
# refuse, show its stack, drain.
filter_suffices() {
    local word sign used
    cp -r models/demo "$tmp/model"
    : >"$tmp/allowed"
    sed -n 's/^SystemCallFilter=//p' deploy/systemd/fathom.service.in >"$tmp/lines"
    while read -r line; do
        sign=+; case $line in '~'*) sign=-; line=${line#'~'} ;; esac
        for word in $line; do case $word in @*) calls_of "$word" ;; *) echo "$word" ;; esac; done >"$tmp/calls"
        if [ $sign = + ]; then cat "$tmp/calls" >>"$tmp/allowed"
        else grep -vxFf "$tmp/calls" "$tmp/allowed" >"$tmp/rest"; mv "$tmp/rest" "$tmp/allowed"; fi
    done <"$tmp/lines"
    : >"$tmp/traced.log"
    strace -f -qq -e signal=none -o "$tmp/trace" "$fathom" serve --device cpu --model "$tmp/model" --packed-cache --port 0 2>"$tmp/traced.log" &
    pids+=($!)
    wait_for is_ready "$tmp/traced.log" && lives || { cat "$tmp/traced.log"; return 1; }
    used=http://127.0.0.1:$(port_in "$tmp/traced.log")
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

#!/bin/sh
# Every command: --help and its example as printed, and a wrong word answered with status 2.
# Ends 0, or 1 with what was not as said. bench kernels' example takes minutes and is left out.
set -eu
cd "$(dirname "$0")/../../.."
fathom=build/fathom
dir=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server"; rm -rf "$dir"' EXIT
. tests/lib/ends.sh

ends 2 "" sh -c "$fathom >&2"
grep -q '^Usage: fathom COMMAND' "$dir/err" || fail "fathom alone does not say how it is used"
ends 2 "unknown command 'nonsense'" $fathom nonsense
ends 0 "" $fathom --help
for c in $(sed -n 's/^  \([a-z]*\)  .*/\1/p' "$dir/out" | sort -u) 'bench engine' 'bench kernels'; do
    ends 0 "" $fathom $c --help
    [ "$(sed '/^Example:/,$d' "$dir/out" | awk 'length > 100' | wc -l)" -eq 0 ] || fail "$c --help has lines over 100 columns"
    sed -n '/^Example:/{n;s/^  //p}' "$dir/out" >"$dir/example-$(echo "$c" | tr ' ' -)"
    ends 0 "" $fathom $c --version
    ends 2 "unknown option '--nonsense'" $fathom $c --nonsense
done

# A number's range stands behind its help.
ends 0 "" $fathom serve --help
tr -s ' \n' ' ' <"$dir/out" >"$dir/joined"
for words in '--port N port [^-]*(default 8080) \[0 to 65535\] --' '--body-seconds S .*(default 10) \[0.1 to 3600\] --' \
    '--kv-memory BYTES [^-]* \[at least 64K\] --' '(default 1048576) \[at least 1\] --' '--host ADDR address to listen on (default 127.0.0.1) --'; do
    grep -q -- "$words" "$dir/joined" || fail "serve --help does not say '$words'"
done

demo="--model models/demo --device cpu"
: >"$dir/empty"
echo short >"$dir/keys"
ends 2 "--out is required" $fathom init --variant tiny
ends 2 "no model 'dmeo'; did you mean 'demo'?" $fathom serve dmeo
ends 2 "unknown command 'sevre'; did you mean 'serve'?" $fathom sevre
ends 2 "unknown command 'bench engines'; did you mean 'bench engine'?" $fathom bench engines
ends 2 "unknown option '--prot'; did you mean '--port'?" $fathom serve --prot 1
ends 2 "unexpected argument 'more'" $fathom serve demo more
ends 0 "" $fathom version --json
jq -e '.version == "0.1.0" and (.compiler | length > 4) and (.libraries | keys | length == 5) and (.kernels | length > 3)' "$dir/out" >/dev/null ||
    fail "version --json: $(cat "$dir/out")"
for word in --version -V -v version; do
    ends 0 "" $fathom $word
    [ "$(wc -l <"$dir/out")" -eq 5 ] && head -1 "$dir/out" | grep -Eq '^fathom 0\.1\.0( \([0-9a-f]{7,}\))?$' || fail "$word: $(cat "$dir/out")"
done
ends 0 "" $fathom help bench engine
grep -q '^fathom bench engine - ' "$dir/out" || fail "help bench engine: $(cat "$dir/out")"
ends 0 "" $fathom serve --help=queue
grep -q -- '--max-queue N' "$dir/out" && ! grep -q -- '--port' "$dir/out" || fail "serve --help=queue: $(cat "$dir/out")"

# A value comes from the command line, else the environment, else the file, else the default.
one="$fathom generate demo --device cpu --ids 1 --json"
printf 'max-tokens: 2\nport: 1\n[generate]\nseed = 3\n[serve]\nport = 2\n' >"$dir/options"
tokens() { jq '.depths | length' "$dir/out"; }
ends 0 "model demo: models/demo" $one --config "$dir/options"
[ "$(tokens)" -eq 2 ] || fail "--config: $(tokens) tokens"
ends 0 "" env FATHOM_CONFIG="$dir/options" FATHOM_MAX_TOKENS=3 $one
[ "$(tokens)" -eq 3 ] || fail "FATHOM_MAX_TOKENS: $(tokens) tokens"
ends 0 "" env FATHOM_CONFIG="$dir/options" FATHOM_MAX_TOKENS=3 $one --max-tokens 4
[ "$(tokens)" -eq 4 ] || fail "--max-tokens: $(tokens) tokens"
ends 2 "FATHOM_MAX_TOKENS must be 1 to 1000000, not 0" env FATHOM_MAX_TOKENS=0 $one
echo 'max-token: 2' >"$dir/options"
ends 2 "$dir/options:1: unknown option 'max-token'; did you mean 'max-tokens'?" $one --config "$dir/options"
ends 2 "cannot listen on 'nowhere.invalid'" env FATHOM_PORT=tcp://10.0.0.1:8080 $fathom serve --host nowhere.invalid
grep -q 'set by Kubernetes' "$dir/err" || fail "FATHOM_PORT of Kubernetes: $(cat "$dir/err")"

# A single dash is the prompt from stdin, beside a model and without one.
ends 0 "" sh -c "printf 'In the' | $fathom generate demo - --device cpu --max-tokens 1 --json"
[ "$(jq -c .prompt_ids "$dir/out")" = '[1142,258]' ] || fail "generate demo -: $(cat "$dir/out")"
ends 0 "no model is given; taking models/demo" sh -c "printf 'In the' | HOME=$dir $fathom generate - --device cpu --max-tokens 1"
ends 2 "--model is given twice" $fathom generate demo --model hops --prompt x

# An installed tree, from an empty folder.
mkdir -p "$dir/usr/bin" "$dir/usr/share/fathom" "$dir/empty-folder"
cp $fathom "$dir/usr/bin/"
cp -r models "$dir/usr/share/fathom/"
(
    cd "$dir/empty-folder"
    export HOME="$dir/empty-folder"
    ends 0 "no model is given; taking $dir/usr/share/fathom/models/demo" ../usr/bin/fathom generate --device cpu --prompt In --max-tokens 1
    ends 0 "model hops: $dir/usr/share/fathom/models/hops" ../usr/bin/fathom inspect hops
    mkdir -p .local/share/fathom/models
    cp -r ../usr/share/fathom/models/hops .local/share/fathom/models/mine
    ends 0 "taking $HOME/.local/share/fathom/models/mine, the newest of your own" ../usr/bin/fathom inspect
    ends 0 "" ../usr/bin/fathom models
    [ "$(head -1 "$dir/out" | tr -s ' ')" = "mine $HOME/.local/share/fathom/models/mine" ] || fail "models: $(cat "$dir/out")"
) || exit 1

ends 2 "/nothing: No such file" $fathom serve --port 0 --model "$dir/nothing"
ends 2 "--port must be 0 to 65535" $fathom serve $demo --port 65536
ends 2 "--api-key-file: $dir/nothing: No such file" $fathom serve $demo --port 0 --api-key-file "$dir/nothing"
ends 2 "keys:1: a key needs at least 8 characters" $fathom serve $demo --port 0 --api-key-file "$dir/keys"
ends 2 "empty: holds no key" $fathom serve $demo --port 0 --api-key-file "$dir/empty"
ends 2 "cannot listen on 'nowhere.invalid'" $fathom serve $demo --host nowhere.invalid
ends 2 "--served-name takes a name" $fathom serve $demo --port 0 --served-name ''
ends 2 "give one of --prompt and --ids" $fathom generate $demo
ends 2 "expected token ids below 2048" $fathom generate $demo --ids '1 2048'
ends 2 "exceed the context of 1024" $fathom generate $demo --prompt "$(head -c 20000 models/demo/held_out.txt)"
cp -r models/demo "$dir/first"
jq '.post_processor = {type: "TemplateProcessing", single: [{SpecialToken: {id: "<|endoftext|>"}}, {Sequence: {id: "A"}}]}' \
    models/demo/tokenizer.json >"$dir/first/tokenizer.json"
ends 0 "" $fathom generate --device cpu --model "$dir/first" --prompt 'In the' --max-tokens 1 --json
grep -q '"prompt_ids":\[2044,1142,258\]' "$dir/out" || fail "generate begins as no server would: $(cat "$dir/out")"
ends 2 "--text: $dir/nothing: No such file" $fathom score $demo --text "$dir/nothing"
ends 2 "--ids: $dir/nothing: No such file" $fathom score $demo --ids "$dir/nothing"
ends 2 "not valid JSON" $fathom score $demo --ids README.md
ends 2 "--text: $dir/nothing: No such file" $fathom compare $demo --text "$dir/nothing"
ends 2 "--config-json: $dir/nothing: No such file" $fathom init --config-json "$dir/nothing" --out "$dir/x"
ends 2 "tokenizer.json" $fathom tokenize --model "$dir"
# A line that is wrong costs itself alone.
rc=0
printf '%s\n' '"In the"' 'nonsense' '[300]' '"a\u0000b"' '"God"' |
    $fathom tokenize --model models/demo >"$dir/out" 2>"$dir/err" || rc=$?
[ $rc -eq 1 ] && [ "$(wc -l <"$dir/out")" -eq 3 ] && [ "$(wc -l <"$dir/err")" -eq 2 ] ||
    fail "tokenize of two bad lines in five: status $rc, $(cat "$dir/out" "$dir/err")"
grep -q 'line 2: ' "$dir/err" && grep -q 'line 3: element 0 is not a byte' "$dir/err" || fail "tokenize: $(cat "$dir/err")"
sed -n 2p "$dir/out" | jq -e 'length == 3' >/dev/null || fail "U+0000 is no character: $(cat "$dir/out")"
ends 1 "connect" $fathom bench --url http://127.0.0.1:1

# A conversation: its text and ids, control tokens marked, without any weights.
mkdir "$dir/words"
cp models/demo/tokenizer.json models/demo/tokenizer_config.json "$dir/words"
echo '[{"role":"user","content":"Hi <|end|>"}]' >"$dir/talk.json"
ends 0 "" $fathom tokenize --model "$dir/words" --chat "$dir/talk.json"
grep -q '^<|user|>Hi <|end|><|end|><|assistant|>$' "$dir/out" || fail "tokenize --chat: $(cat "$dir/out")"
[ "$(grep -c '  control$' "$dir/out")" -eq 3 ] || fail "tokenize --chat marks other tokens: $(cat "$dir/out")"
ends 0 "" $fathom tokenize --model "$dir/words" --chat "$dir/talk.json" --json
jq -e '.ids[0] == 2045 and .control[0] == 0 and (.control | length) == 3 and .runs[-1].end == (.text | length)' "$dir/out" >/dev/null ||
    fail "tokenize --chat --json: $(cat "$dir/out")"
ends 0 "" $fathom tokenize --model "$dir/words" --chat "$dir/talk.json" --chat-template plain
grep -q '^User: Hi <|end|>$' "$dir/out" || fail "tokenize --chat-template: $(cat "$dir/out")"
ends 2 "neither a file nor one of" $fathom tokenize --model "$dir/words" --chat "$dir/talk.json" --chat-template none
ends 2 "--chat: $dir/nothing: No such file" $fathom tokenize --model "$dir/words" --chat "$dir/nothing"
ends 2 "need --chat" $fathom tokenize --model "$dir/words" --json
echo '{"messages":[{"role":"king"}]}' >"$dir/talk.json"
ends 2 "messages[0].role must be" $fathom tokenize --model "$dir/words" --chat "$dir/talk.json"
rm "$dir/words/tokenizer_config.json"
ends 2 "has no chat template; use --chat-template" $fathom tokenize --model "$dir/words" --chat "$dir/talk.json"

# A FIFO, socket, device or folder in the place of a file: the file is named, and nothing waits.
put_fifo() { mkfifo "$1"; }
put_folder() { mkdir "$1"; }
put_device() { ln -s /dev/zero "$1"; }
put_socket() { perl -MIO::Socket::UNIX -e 'IO::Socket::UNIX->new(Local => $ARGV[0], Listen => 1) or die "$!"' "$1"; }
for kind in fifo folder device socket; do
    for file in config.json model.safetensors tokenizer.json generation_config.json tokenizer_config.json \
        chat_template.jinja chat_template.fathom.json; do
        rm -rf "$dir/odd"
        cp -r models/demo "$dir/odd"
        rm -f "$dir/odd/$file"
        put_$kind "$dir/odd/$file"
        ends 2 "/odd/$file: expected a regular file, found something else" timeout 300 $fathom serve --device cpu --port 0 --model "$dir/odd"
    done
    put_$kind "$dir/$kind"
    ends 2 "--api-key-file: $dir/$kind: expected a regular file, found something else" \
        timeout 300 $fathom serve $demo --port 0 --api-key-file "$dir/$kind"
done

# Packed weights larger than a file may be here cost a line, and leave nothing behind.
cp -r models/demo "$dir/limited"
ends 0 "fathom-packed.bin: File too large" sh -c "ulimit -f 1000; $fathom generate --device cpu --packed-cache --model $dir/limited --ids 1 --max-tokens 1"
! ls "$dir/limited" | grep packed || fail "a part of the packed weights was left behind"

ouro="--model $dir/ouro --device cpu"
ends 0 "" $fathom init --variant ouro_tiny --out "$dir/ouro" --dtype float32 --mean-depth 2.5
ends 2 "openmythos models cannot leave the loop by this rule; they can by: act" $fathom generate $demo --prompt a --exit-rule hazard
ends 2 "--exit-rule must be one of" $fathom generate $demo --prompt a --exit-rule ACT
ends 2 "for the exit rule act it must be above 0 and at most 1" $fathom generate $demo --prompt a --exit-threshold 1.5
ends 2 "for the exit rule act it must be above 0 and at most 1" $fathom generate $demo --prompt a --act-threshold 1.5
ends 2 "openmythos models start from the token's embedding" $fathom generate $demo --prompt a --initial-state seeded
ends 2 "--max-loops is 9; ouro models run 1 to 4 loops" $fathom generate $ouro --ids 1 --max-loops 9
ends 2 "--max-loops is 5; ouro models run 1 to 4 loops" $fathom generate $ouro --ids 1 --loops 5
ends 2 "--min-loops is 5; ouro models run 1 to 4 loops" $fathom score $ouro --ids README.md --min-loops 5
ends 2 "for the exit rule hazard it must be above 0 and at most 1 (1: every loop runs)" $fathom generate $ouro --ids 1 --exit-threshold 0
for rule in latent-diff cosine; do
    ends 0 "exit by $rule at 0 (every loop runs)" $fathom generate $ouro --ids '1 2 3' --max-tokens 3 --exit-rule $rule --exit-threshold 0 --show-depth
    grep -q 'depths: 4,4,4' "$dir/out" || fail "$rule at 0 ran other loops: $(cat "$dir/out")"
done
nanbeige="--model $dir/nanbeige --device cpu"
ends 0 "" $fathom init --variant nanbeige_tiny --out "$dir/nanbeige"
ends 2 "--max-loops is 1; nanbeige models run exactly 2 loops" $fathom generate $nanbeige --ids 1 --loops 1
ends 0 "" $fathom generate $nanbeige --ids 1 --loops 2 --max-tokens 2
ends 2 "a fixed number of loops and has no threshold" $fathom generate $ouro --ids 1 --exit-rule fixed --exit-threshold 1
ends 0 "" $fathom bench kernels --model "$dir/ouro" --what feed-forward --rows 1
grep -q '^feed-forward ' "$dir/out" && grep -q '^ouro, 3 core layers' "$dir/out" || fail "bench kernels on an Ouro: $(cat "$dir/out")"
ends 0 "" $fathom bench kernels --what sampler --json
[ "$(grep -c '"what":"sampler ' "$dir/out")" = 20 ] || fail "bench kernels on the sampler: $(cat "$dir/out")"
ends 0 "ouro, 3 core layers, exit by hazard at 0.5" $fathom generate $ouro --ids '1 2 3' --max-tokens 8 --show-depth
ends 0 "a fixed number of loops" $fathom generate $ouro --ids '1 2 3' --max-tokens 3 --exit-rule fixed --show-depth
grep -q 'depths: 4,4,4' "$dir/out" || fail "the rule fixed ran other loops: $(cat "$dir/out")"
for rule in 'hazard 0.3' 'latent-diff 0.9' 'cosine 0.4'; do
    ends 0 "exit by ${rule% *} at ${rule#* }" $fathom generate $ouro --ids '1 2 3' --max-tokens 8 --exit-rule ${rule% *} --exit-threshold ${rule#* }
done

for c in init inspect tokenize generate score compare bench-engine; do
    example=$(sed 's#^fathom #build/fathom #; s#/tmp/tiny#'"$dir"'/tiny#' "$dir/example-$c")
    # The benchmark's example, cut short: how long it runs is all that its numbers say.
    [ $c != bench-engine ] || example="$example --repeat 1 --output-tokens 4 --prompt-tokens 4"
    ends 0 "" sh -c "$example"
    [ $c = init ] || [ -s "$dir/out" ] || fail "$example: printed nothing"
done

# serve and bench point at each other; a port of the system's choice stands for 8080.
sed 's#^fathom #exec build/fathom #; s#8080#0#' "$dir/example-serve" >"$dir/serve.sh"
sh "$dir/serve.sh" 2>"$dir/log" & server=$!
for _ in $(seq 1200); do grep -q ' ready on ' "$dir/log" && break; sleep 0.1; done
port=$(sed -n 's/.* ready on .*:\([0-9]*\) after.*/\1/p' "$dir/log")
[ -n "$port" ] || fail "serve's example: $(cat "$dir/log")"
ends 1 "cannot listen on 127.0.0.1 port $port: Address already in use" $fathom serve $demo --port "$port"
ends 0 "" sh -c "$(sed 's#^fathom #build/fathom #; s#8080#'"$port"'#' "$dir/example-bench")"
grep -q 'Failed requests: *0' "$dir/out" || fail "bench's example: requests failed"
ends 0 "" sh -c "$(sed 's#^fathom #build/fathom #; s#8080#'"$port"'#' "$dir/example-health")"
kill "$server"
wait "$server" || fail "serve ended with $?: $(cat "$dir/log")"
server=
echo "every command: ok"

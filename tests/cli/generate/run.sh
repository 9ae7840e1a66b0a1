#!/bin/sh
# `fathom generate`: where its prompt and its sampling come from, and what it tells at the end.
set -eu
cd "$(dirname "$0")/../../.."
fathom=${FATHOM_BIN:-build/fathom}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
. tests/lib/ends.sh
demo="models/demo --device cpu"
text() { # FILE for the text, arguments
    out=$1; shift
    $fathom generate "$@" >"$out" 2>"$dir/err" || fail "generate $*: $(cat "$dir/err")"
}

# Without options the model's generation_config.json decides, as on the server: temperature 0.7 and top_p 0.95.
text "$dir/own" $demo --prompt 'In the beginning' --max-tokens 40 --seed 3
text "$dir/same" $demo --prompt 'In the beginning' --max-tokens 40 --seed 3 --temperature 0.7 --top-p 0.95
text "$dir/other" $demo --prompt 'In the beginning' --max-tokens 40 --seed 4
text "$dir/greedy" $demo --prompt 'In the beginning' --max-tokens 40 --seed 3 --temperature 0
text "$dir/greedy4" $demo --prompt 'In the beginning' --max-tokens 40 --seed 4 --temperature 0
cmp -s "$dir/own" "$dir/same" || fail "the model's sampling is not the default"
! cmp -s "$dir/own" "$dir/other" || fail "another seed, and the same text"
cmp -s "$dir/greedy" "$dir/greedy4" && ! cmp -s "$dir/greedy" "$dir/own" || fail "an option does not go before the model's sampling"
echo "ok sampling of the model"
# A model that names no sampling takes the likeliest token.
cp -r models/demo "$dir/plain"
echo '{"eos_token_id": [2044, 2047]}' >"$dir/plain/generation_config.json"
text "$dir/plain4" "$dir/plain" --device cpu --prompt 'In the beginning' --max-tokens 40 --seed 4
cmp -s "$dir/plain4" "$dir/greedy" || fail "a model without sampling is not greedy"
echo "ok a model without sampling is greedy"

# The context cuts a limit, and the last line says so; a stop before the end of the context does not.
text "$dir/cut" $demo --ids '1142 258' --max-tokens 5000 --ignore-eos
grep -qF -- "--max-tokens 5000 is cut to 1022, the room in the context" "$dir/err" || fail "cut without a word: $(cat "$dir/err")"
text "$dir/stop" models/hops --device cpu --prompt "Ann's friend is Kim. Ann's friend is" --max-tokens 5000
! grep -q "is cut" "$dir/err" || fail "an answer that stopped was not cut: $(cat "$dir/err")"
grep -q "mean depth [0-9.]* of 8, [0-9]* % of loops saved" "$dir/err" || fail "the figures: $(cat "$dir/err")"
[ "$(cat "$dir/stop")" = " Kim." ] || fail "hops: $(cat "$dir/stop")"
echo "ok limits and figures"

# Speculation changes no token, and its figures are told.
text "$dir/ahead" $demo --prompt 'In the beginning' --max-tokens 40 --seed 3 --speculate 3 --draft-loops 1
cmp -s "$dir/ahead" "$dir/own" || fail "--speculate 3: another text: $(cat "$dir/ahead")"
grep -q "tokens/s, [0-9]* of [1-9][0-9]* drafts right" "$dir/err" || fail "the figures of --speculate: $(cat "$dir/err")"
text "$dir/alone" $demo --prompt 'In the beginning' --max-tokens 40 --seed 3 --speculate off
cmp -s "$dir/alone" "$dir/own" && ! grep -q drafts "$dir/err" || fail "--speculate off: $(cat "$dir/err")"
text "$dir/json" $demo --prompt 'In the beginning' --max-tokens 40 --seed 3 --speculate 3 --draft-loops 1 --json
grep -q '"drafted":[1-9][0-9]*,"drafts_right":[0-9]' "$dir/json" || fail "--json: $(cat "$dir/json")"
ends 2 "does not go with --halted-kv collapse" $fathom generate $demo --prompt x --halted-kv collapse --speculate 2
ends 2 "a token of this model runs at most 16 loops" $fathom generate $demo --prompt x --draft-loops 17
ends 2 "must be 1 to 64, not 65" $fathom generate $demo --prompt x --speculate 65
echo "ok speculation"

printf 'In the beginning\n' | $fathom generate $demo --prompt - --seed 3 --max-tokens 40 >"$dir/stdin" 2>"$dir/err"
cmp -s "$dir/stdin" "$dir/own" || fail "--prompt -: $(cat "$dir/stdin")"
head -c 17000000 /dev/zero | tr '\0' a >"$dir/long"
ends 2 "--prompt -: stdin holds more than 16 MB" sh -c "$fathom generate $demo - <$dir/long"
ends 2 "the prompt has no tokens" sh -c "$fathom generate $demo - </dev/null"
ends 2 "so it cannot go with --ids" $fathom generate $demo --chat --ids 1
ends 2 "--chat-template needs --chat" $fathom generate $demo --prompt x --chat-template plain
ends 2 "has no chat template" $fathom generate models/hops --device cpu --prompt x --chat

# On a terminal each token has the colour of its depth, and a legend says which; a pipe and NO_COLOR have none.
if command -v script >/dev/null; then
    esc=$(printf '\033')
    on_terminal() { TERM=xterm-256color script -qec "$fathom generate $demo --prompt 'In the' --max-tokens 5 --show-depth" /dev/null </dev/null; }
    on_terminal >"$dir/terminal"
    grep -q "loops: $esc\[38;5;39m1$esc\[0m .*$esc\[38;5;196m8" "$dir/terminal" || fail "no legend: $(cat "$dir/terminal")"
    NO_COLOR=1 on_terminal >"$dir/terminal"
    ! grep -q "$esc" "$dir/terminal" || fail "NO_COLOR, and colours: $(cat "$dir/terminal")"
    echo "ok colours"
fi
echo "generate: ok"

#!/bin/sh
# `fathom chat`: as a filter, and by a person at a terminal (terminal.py, through a pseudo-terminal).
# FATHOM_BIN: another program than build/fathom.
set -eu
cd "$(dirname "$0")/../../.."
fathom=${FATHOM_BIN:-build/fathom}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
. tests/lib/ends.sh
export XDG_STATE_HOME="$dir/state"

talk() { # STATUS, what stderr must say, arguments; the entries on stdin
    want=$1 says=$2; shift 2
    rc=0
    timeout 300 $fathom chat "$@" >"$dir/out" 2>"$dir/err" || rc=$?
    [ $rc -eq "$want" ] || fail "chat $*: status $rc, expected $want: $(cat "$dir/err")"
    [ -z "$says" ] || grep -qF -- "$says" "$dir/err" || fail "chat $*: says '$(cat "$dir/err")', expected '$says'"
    echo "ok $want chat $*"
}
printed() { # TEXT: stdout as a whole
    [ "$(cat "$dir/out")" = "$1" ] || fail "printed '$(cat "$dir/out")', expected '$1'"
}

# A model without a template continues one text. A question takes a loop for each step.
facts="Ann's friend is Kim. Kim's friend is Bob. Bob's friend is Zoe. Zoe's friend is Eve. Eve's friend is Ann."
talk 0 "has no chat template: it continues your text" models/hops --device cpu <<END
$facts\\
Ann's friend's friend's friend is
Kim's friend's friend's friend is
END
printed " Zoe.
 Eve."
grep -q "mean depth 2.00 of 8, 75 % of loops saved" "$dir/err" || fail "the figures: $(cat "$dir/err")"
talk 0 "" models/hops --device cpu <<END
"""
$facts

Ann's friend's friend's friend is
"""
/depth 1-2
/again
/depth auto
/clear
$facts Zoe's friend's friend is
END
printed " Zoe.
 Bob.
 Ann."

# What has been said is kept, forgotten, written and read.
talk 0 "" models/hops --device cpu <<END
/system $facts
Ann's friend is
Bob's friend's friend is
/undo
/save $dir/talk.json  
/clear
Eve's friend is
/load $dir/talk.json
/history
END
printed " Kim.
 Eve.
 Ann.
system: $facts
user: Ann's friend is
assistant:  Kim."
[ "$(jq -c 'map(.role)' "$dir/talk.json")" = '["system","user","assistant"]' ] || fail "saved: $(cat "$dir/talk.json")"
[ "$(stat -c %a "$dir/talk.json")" = 600 ] || fail "a saved conversation can be read by others"
talk 1 "is there already" models/hops --device cpu <<END
Ann's friend is
/save $dir/talk.json
END
echo '[{"role":"king","content":"x"}]' >"$dir/bad.json"
talk 1 "message 0 must have a content, and the role system, user or assistant" models/hops --device cpu <<END
/load $dir/bad.json
END
talk 1 "nothing.json: No such file" models/hops --device cpu <<END
/load $dir/nothing.json
END

# A model with a template. The same seed gives the same answer; each answer has its own otherwise.
printf 'Who made the world?\nAnd the sea?\n' >"$dir/asked"
talk 0 "seed 7" models/demo --device cpu --seed 7 --max-tokens 24 <"$dir/asked"
cp "$dir/out" "$dir/first"
talk 0 "seed 7" models/demo --device cpu --max-tokens 24 <<END
/seed 7
$(cat "$dir/asked")
END
cmp "$dir/out" "$dir/first" || fail "another answer from the same seed"
talk 0 "" models/demo --device cpu --max-tokens 24 <<END
Who made the world?
/again
END
[ "$(grep -o 'seed [0-9]*' "$dir/err" | sort -u | wc -l)" -eq 2 ] || fail "/again took the same seed: $(cat "$dir/err")"
# The conversation is what the server would render: the same tokens answer the same messages.
printf 'Who made the world?\n' | timeout 300 $fathom chat models/demo --device cpu --temperature 0 --max-tokens 24 >"$dir/chat" 2>/dev/null
$fathom generate --model models/demo --device cpu --chat --prompt 'Who made the world?' --temperature 0 --max-tokens 24 >"$dir/generate" 2>/dev/null
cmp "$dir/chat" "$dir/generate" || fail "chat and generate --chat differ: $(cat "$dir/chat" "$dir/generate")"
printf 'Who made the world?' | $fathom generate --model models/demo --device cpu --chat --prompt - --temperature 0 --max-tokens 24 >"$dir/stdin" 2>/dev/null
cmp "$dir/stdin" "$dir/generate" || fail "generate --prompt - differs: $(cat "$dir/stdin")"
printf 'Who made the world?\n' | $fathom generate models/demo --device cpu --chat --temperature 0 --max-tokens 24 - >"$dir/stdin" 2>/dev/null
cmp "$dir/stdin" "$dir/generate" || fail "generate - differs: $(cat "$dir/stdin")"

# A model that thinks first: a filter prints the answer alone, and this one ends within its thoughts.
cat >"$dir/think.jinja" <<'END'
{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|><think>
{% endif %}
END
talk 0 "seed 1" models/demo --device cpu --chat-template "$dir/think.jinja" --max-tokens 12 --seed 1 <<END
Hello
/save $dir/thought.json
END
printed ""
[ "$(wc -l <"$dir/out")" -eq 1 ] || fail "no line for the question"
jq -e '.[1].content == "" and (.[1].reasoning_content | length) > 0' "$dir/thought.json" >/dev/null || fail "the thoughts: $(cat "$dir/thought.json")"

# A model without a tokenizer takes and gives ids.
talk 0 "has no tokenizer: write token ids" models/demo --device cpu --no-tokenizer --max-tokens 5 --temperature 0 <<END
1142 258
END
ids=$($fathom generate --model models/demo --device cpu --no-tokenizer --ids '1142 258' --max-tokens 5 --temperature 0 2>/dev/null)
printed "$ids"
talk 1 "write token ids, as in 1 2 3, not 'x'" models/demo --device cpu --no-tokenizer <<END
x
END

# A setting outside its range is refused by the server's own rule, and changes nothing.
while IFS='|' read -r line says; do
    talk 1 "$says" models/demo --device cpu <<END
$line
/show
END
    grep -q '/depth  *auto' "$dir/out" && grep -q '/temperature  *auto' "$dir/out" || fail "$line: $(cat "$dir/out")"
done <<'END'
/depth 99|depth.min_loops must be between 1 and 16
/depth 4-2|depth.min_loops is 4; this request runs at most 2 loops
/depth x|expected a whole number, not 'x'
/depth 2-4x|write /depth 4, /depth 1-4 or /depth auto
/depth|write /depth N|A-B|auto
/threshold 2|depth.threshold
/effort lots|reasoning_effort
/temperature 3|temperature
/temperature warm|expected a number, not 'warm'
/max-tokens 0|an answer has at least 1 token
/max-tokens -1|expected a whole number
/seed x|expected a whole number
/histroy|no command /histroy; did you mean /history?
/xyzzy|no command /xyzzy; /help lists them
/again|there is no answer to make again
/undo|nothing has been said yet
/clear now|/clear takes nothing behind it
END
talk 0 "" models/demo --device cpu <<'END'
/depth 2-3
/threshold 0.5
/effort low
/temperature 0.25
/max-tokens 9
/seed 12
/show
/help
END
for words in '/depth  *2 to 3 loops' '/threshold  *0.5' '/effort  *"low"' '/temperature  *0.25' '/max-tokens  *9' '/seed  *12 for every'; do
    grep -q "$words" "$dir/out" || fail "/show does not say $words: $(cat "$dir/out")"
done
for command in depth threshold effort temperature max-tokens seed system again undo history clear save load show exit; do
    grep -q "^  /$command " "$dir/out" || fail "/help does not name /$command"
done

# Nothing after /exit; a line that is too long for the context is refused, and the next one answered.
talk 0 "" models/hops --device cpu <<END
/exit
$facts Ann's friend is
END
printed ""
{ head -c 20000 models/demo/held_out.txt | tr '\n' ' '; echo; echo "Ann's friend is Kim. Ann's friend is"; } >"$dir/long"
talk 1 "exceed" models/hops --device cpu <"$dir/long"
printed " Kim."
{ printf 'a\0b\n'; printf '\377\376\n'; printf '/\n'; printf '//what is\n'; echo "Ann's friend is Kim. Ann's friend is"; } >"$dir/odd"
rc=0
timeout 300 $fathom chat models/demo --device cpu --max-tokens 4 <"$dir/odd" >"$dir/out" 2>"$dir/err" || rc=$?
[ $rc -eq 1 ] || fail "odd bytes: status $rc: $(cat "$dir/err")"
grep -q "not valid UTF-8" "$dir/err" || fail "odd bytes: $(cat "$dir/err")"
# The example of --help, as printed.
$fathom chat --help >"$dir/help"
example=$(sed -n '/^Example:/{n;s/^  fathom //p}' "$dir/help")
# shellcheck disable=SC2086
echo 'Who made the world?' | $fathom $example >"$dir/out" 2>"$dir/err" || fail "fathom $example: $(cat "$dir/err")"
[ -s "$dir/out" ] || fail "fathom $example printed nothing"
# No escape codes for a pipe, and no files of a filter.
! grep -q "$(printf '\033')" "$dir/out" "$dir/err" || fail "escape codes in a pipe"
[ ! -e "$dir/state" ] || fail "a filter keeps lines"

if ! command -v python3 >/dev/null; then echo "no python3: the terminal was not tried"; exit 0; fi
$fathom init --variant huginn_tiny --out "$dir/endless" >/dev/null
jq '.block_size = 400000' "$dir/endless/config.json" >"$dir/config.json"
mv "$dir/config.json" "$dir/endless/config.json"
python3 tests/cli/chat/terminal.py "$fathom" "$dir/endless" "$dir/think.jinja"
echo "chat: ok"

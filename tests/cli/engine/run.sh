#!/bin/sh
# `fathom bench engine` and `fathom compare` on the demo model: what they print is whole, and
# every mode of one policy puts out the same tokens.
set -eu
cd "$(dirname "$0")/../../.."
fathom=build/fathom
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
fail() { echo "FAIL: $*"; exit 1; }

"$fathom" bench engine --model models/demo --device cpu --sequences 2,6 --repeat 1 --prompt-tokens 12 \
    --output-tokens 12 --json >"$out/bench.json" 2>/dev/null
jq -e '.runs | length == 10' "$out/bench.json" >/dev/null || fail "not ten runs"
jq -e '[.runs[].tokens_differing] | add == 0' "$out/bench.json" >/dev/null || fail "tokens differ between modes"
jq -e '[.runs[] | select(.tokens_compared > 0)] | length >= 6' "$out/bench.json" >/dev/null || fail "nothing compared"
jq -e 'all(.runs[]; .tokens_per_s > 0 and .ratio_to_full > 0 and .bound_ratio > 0 and .percent_of_bound > 0
    and .cache_bytes > 0 and .mean_depth >= 1 and .mean_depth <= .max_loops
    and (.depth_histogram | add) == .positions)' "$out/bench.json" >/dev/null || fail "a figure is off"
jq -e '[.runs[] | select(.policy == "last") | .cache_bytes < .cache_bytes_all_loops] | all' "$out/bench.json" \
    >/dev/null || fail "last stores every loop"

# The simulator, with costs fitted to that run: the same work and launches; its times add up to the run's.
"$fathom" bench engine --model models/demo --simulate --simulate-from "$out/bench.json" --sequences 2,6 --repeat 1 \
    --prompt-tokens 12 --output-tokens 12 --json >"$out/sim.json" 2>/dev/null
jq -e '.clock == "virtual" and .device == "simulated" and (.runs | length == 10) and ([.runs[].tokens_differing] | add == 0)
    and all(.runs[]; (.launches | length) == .prelude.launches + .recurrent.launches + .coda.launches)' \
    "$out/sim.json" >/dev/null || fail "the simulator"
jq -e -s 'def seconds: [.runs[].seconds] | add; (.[1] | seconds) / (.[0] | seconds) | . > 0.85 and . < 1.15' \
    "$out/bench.json" "$out/sim.json" >/dev/null || fail "simulated and real seconds differ"
jq -e -s '[.[].runs[] | select(.mode == "full") | .recurrent.launches] | .[0] == .[2] and .[1] == .[3]' \
    "$out/bench.json" "$out/sim.json" >/dev/null || fail "simulated and real launches of full differ"
# By hand, in which the costs are the result: full with 100 ns a row and nothing else.
"$fathom" bench engine --model models/demo --simulate --costs 'prelude=0,0 recurrent=0,100 coda=0,0' --mean-depth 3 --sequences 4 \
    --modes full --json 2>/dev/null >"$out/hand.json"
jq -e '.runs[0] | (.seconds * 1e9 - 100 * .recurrent.rows | fabs) < 1e5 and .fr_ns == 100 and .mean_depth > 2 and .mean_depth < 4' \
    "$out/hand.json" >/dev/null || fail "costs by hand"

# Each depthwise mode runs once for each choice of drafts, and all put out the same tokens.
"$fathom" bench engine --model models/demo --device cpu --sequences 1,3 --repeat 1 --prompt-tokens 12 --output-tokens 24 \
    --modes depthwise,depthwise/collapse --speculate off,auto,3 --json >"$out/drafts.json" 2>/dev/null
jq -e '[.runs[] | select(.sequences == 1) | [.mode, .policy, .speculate]] == [["full", "exact", 0],
    ["depthwise", "exact", 0], ["depthwise", "exact", "auto"], ["depthwise", "exact", 3],
    ["depthwise", "last", 0], ["depthwise", "last", "auto"], ["depthwise", "last", 3], ["depthwise", "collapse", 0]]
    and ([.runs[].tokens_differing] | add == 0) and all(.runs[]; .tokens_per_launch > 0)
    and all(.runs[] | select(.speculate == 0); .drafts.accepted + .drafts.head_rows + .drafts.withdrawn_rows == 0)' \
    "$out/drafts.json" >/dev/null || fail "drafts: $(jq -c '[.runs[] | {mode, policy, speculate, drafts, tokens_differing}]' "$out/drafts.json")"

# Simulated drafts of loops 1 to 7 of 8, on free rows. Always right: a stream puts out more than a token for two loops. Never right: no token
# differs. Right for half of the positions: so is half of the drafts that follow a known token.
for agreement in 0 0.5 1; do
    every=$agreement,$agreement,$agreement,$agreement,$agreement,$agreement,$agreement
    "$fathom" bench engine --model models/demo --simulate --costs 'prelude=0,0 recurrent=1000,0 coda=0,0' --max-loops 8 --mean-depth 8 \
        --sequences 1 --modes depthwise/exact --speculate off,7 --draft-loops 1 --agreement $every --repeat 1 --rounds 16 \
        --json >"$out/agrees$agreement.json" 2>/dev/null
done
jq -e -s '([.[].runs[].tokens_differing] | add == 0) and all(.[].runs[]; .mean_depth == 8)
    and all(.[].runs[] | select(.speculate == 0); .tokens_per_launch < 0.14)
    and (.[2].runs[2] | .tokens_per_launch > 0.5 and .drafts.withdrawn == 0)
    and (.[0].runs[2].drafts | .withdrawn > 100 and .accepted == 0)
    and (.[1].runs[2].drafts | .accepted_by_place[0] / .chains | . > 0.35 and . < 0.65)' \
    "$out/agrees0.json" "$out/agrees0.5.json" "$out/agrees1.json" >/dev/null ||
    fail "simulated drafts: $(jq -c '.runs[] | {speculate, tokens_per_launch, drafts, tokens_differing}' "$out"/agrees*.json)"

# The scheduler's own time per row does not grow with requests that wait, nor with a burst that shares its prompts.
for shared in 0 128; do
    for waiting in 0 8192; do
        "$fathom" bench engine --model models/demo --simulate --costs 'prelude=100000,1000 recurrent=500000,2000 coda=150000,1000' \
            --mean-depth 3 --sequences 32 --waiting $waiting --shared-prompt $shared --prompt-tokens 192 --output-tokens 16 \
            --same-lengths --repeat 1 --modes depthwise/last --json 2>/dev/null >"$out/waiting$waiting.json"
    done
    jq -e -s 'def per_row: .runs[1] | (.scheduler_seconds + .warm_up.scheduler_seconds) / (.prelude.rows + .recurrent.rows
        + .warm_up.positions); (.[1] | per_row) < 4 * (.[0] | per_row)' "$out/waiting0.json" "$out/waiting8192.json" >/dev/null \
        || fail "steps grow with waiting requests"
done

"$fathom" compare --model models/demo --device cpu --text models/demo/held_out.txt --first 1024 --at-loops 1 \
    --json >"$out/compare.json" 2>/dev/null
jq -e '.runs[0].mean_kl == 0 and .runs[0].top1_agreement == 1' "$out/compare.json" >/dev/null || fail "exact is not itself"
jq -e '.runs[1].policy == "last" and .runs[1].mean_kl < 0.001 and .runs[1].top1_agreement > 0.98' \
    "$out/compare.json" >/dev/null || fail "last is far from exact"
jq -e '.runs[2].policy == "collapse" and .runs[2].mean_kl > .runs[1].mean_kl and .runs[2].mean_kl < 0.1
    and .runs[2].cache_bytes_per_token == .runs[3].cache_bytes_per_token' "$out/compare.json" >/dev/null ||
    fail "collapse: $(cat "$out/compare.json")"
jq -e '.runs[3].mean_depth == 1 and .runs[3].mean_kl > 0.5' "$out/compare.json" >/dev/null || fail "one loop costs nothing"

# Questions: as many loops as steps, and with fewer loops only the shorter questions are right.
hops="--model models/hops --device cpu --questions models/hops/questions.jsonl"
# shellcheck disable=SC2086
"$fathom" compare $hops --at-loops 8,2 --json >"$out/hops.json" 2>/dev/null
jq -e '.questions == 200 and .default_loops == 8 and [.runs[] | [.policy, .max_loops]] ==
    [["exact", 2], ["exact", 8], ["exact", null], ["last", 2], ["last", 8], ["last", null]]' "$out/hops.json" >/dev/null ||
    fail "runs of the questions: $(cat "$out/hops.json")"
jq -e 'all(.runs[]; .asked == 200 and [.by_steps[].steps] == [range(1; 9)] and all(.by_steps[]; .asked == 25))
    and all(.runs[] | select(.max_loops == 2) | .by_steps[]; .right == (if .steps <= 2 then 25 else 0 end)
        and .mean_loops == ([.steps, 2] | min))
    and all(.runs[] | select(.max_loops != 2) | .by_steps[]; .right == 25 and .mean_loops == .steps)' "$out/hops.json" \
    >/dev/null || fail "answers: $(cat "$out/hops.json")"
# Anybody's questions, without steps, and an answer as a number; a wrong line is named.
printf '%s\n' '{"prompt": "In the beginning", "answer": "God", "source": [1]}' '' '{"prompt": "And", "answer": 7}' >"$out/own.jsonl"
"$fathom" compare --model models/demo --device cpu --questions "$out/own.jsonl" --at-loops 1 --json 2>/dev/null >"$out/own.json"
jq -e '.questions == 2 and .runs[1].max_loops == null and .runs[1].by_steps[0].steps == null and .runs[1].right <= 1' \
    "$out/own.json" >/dev/null || fail "own questions: $(cat "$out/own.json")"
# A question that gets no token has no loops: with " Quin" as an end token the first of four, which takes one loop.
cp -r models/hops "$out/mute"
jq -c '.eos_token_id += [322]' models/hops/generation_config.json >"$out/mute/generation_config.json"
head -n 4 models/hops/questions.jsonl >"$out/four.jsonl"
"$fathom" compare --model "$out/mute" --device cpu --questions "$out/four.jsonl" --at-loops 4 --json 2>/dev/null >"$out/mute.json"
jq -e 'all(.runs[]; .asked == 4 and .right == 3 and .mean_loops == 3 and .by_steps[0].mean_loops == 0)' "$out/mute.json" >/dev/null ||
    fail "no answer: $(cat "$out/mute.json")"
refused() { # what the error says, arguments...
    says=$1
    shift
    status=0
    "$fathom" compare --model models/hops --device cpu "$@" >/dev/null 2>"$out/error" || status=$?
    [ $status -eq 2 ] || fail "status $status: $*"
    grep -q -- "$says" "$out/error" || fail "'$says' is not in: $(cat "$out/error")"
}
echo '{"prompt": "Ann"}' >>"$out/own.jsonl"
refused 'line 4 of .*own.jsonl has no "answer"' --questions "$out/own.jsonl"
echo '{"prompt"' >>"$out/own.jsonl"
refused 'line 5 of .*own.jsonl: not valid JSON' --questions "$out/own.jsonl"
refused 'give one of --text, --made-up and --questions' --json
refused 'give one of --text, --made-up and --questions' --text models/demo/held_out.txt --questions "$out/own.jsonl"
refused "at-loops '1,17'" --questions models/hops/questions.jsonl --at-loops 1,17
refused 'plot draws agreement over loops: give --at-loops' --text models/demo/held_out.txt --plot "$out/x.svg"
refused 'ends in .svg or .png' --questions models/hops/questions.jsonl --plot "$out/x.pdf"
if command -v gnuplot >/dev/null; then
    # shellcheck disable=SC2086
    "$fathom" compare $hops --at-loops 1,8 --plot "$out/hops.svg" >/dev/null 2>&1
    grep -q 'policies exact and last alike: 100 % right at 4.50 loops' "$out/hops.svg" || fail "no title in the staircase"
    grep -q '>8 steps<' "$out/hops.svg" || fail "no band of 8 steps"
    "$fathom" compare --model models/demo --device cpu --text models/demo/held_out.txt --first 512 --at-loops 4,1 --temperature 0.5 --json \
        --plot "$out/agreement.svg" >"$out/agreement.json" 2>/dev/null
    grep -q '>512 tokens, drawn at temperature 0.5<' "$out/agreement.svg" && grep -q '>drawn token alike<' "$out/agreement.svg" ||
        fail "no agreement in the picture"
    jq -e '.temperature == 0.5 and .top_p == 1 and [.runs[3, 4].max_loops] == [4, 1]' "$out/agreement.json" >/dev/null ||
        fail "compare --temperature: $(cat "$out/agreement.json")"
fi

# Real prompts: every mode answers all of them, after the same exits, and a wrong answer is counted as one.
head -n 40 models/hops/questions.jsonl >"$out/some.jsonl"
sed '1s/"answer": "[^"]*"/"answer": " Nobody"/; 2s/"answer": "[^"]*", //' "$out/some.jsonl" >"$out/wrong.jsonl"
"$fathom" bench engine --model models/hops --device cpu --prompts "$out/some.jsonl" --sequences 3,8 --repeat 1 --rounds 2 \
    --json >"$out/real.json" 2>"$out/real.txt"
jq -e '.prompts == 40 and (.runs | length == 10) and all(.runs[]; .answers == 40 and .answers_right == 40 and .tokens_differing == 0)' \
    "$out/real.json" >/dev/null || fail "real prompts: $(cat "$out/real.txt")"
jq -e 'all(.runs[]; (.depth_histogram[8] / .positions | . > 0.001 and . < 0.01) and .depth_histogram[1] / .positions > 0.9)' \
    "$out/real.json" >/dev/null || fail "exits of real prompts"
grep -q 'depthwise last .* answers right: 40 of 40' "$out/real.txt" || fail "no answers in the table"
"$fathom" bench engine --model models/hops --device cpu --prompts "$out/wrong.jsonl" --sequences 4 --repeat 1 --modes depthwise/last \
    --json 2>/dev/null | jq -e 'all(.runs[]; .answers == 39 and .answers_right == 38)' >/dev/null || fail "a wrong answer is right"
# A prompt that comes again runs its last tokens only.
"$fathom" bench engine --model models/hops --device cpu --prompts "$out/some.jsonl" --sequences 8 --repeat 1 --rounds 3 --prefix-cache \
    --modes depthwise/last --json 2>/dev/null >"$out/kept.json"
jq -e -s '.[0].prefix_cache == false and .[1].prefix_cache and all(.[1].runs[]; .answers_right == 40)
    and (.[1].runs[-1] | .positions / .tokens) < 0.8 * (.[0].runs[-1] | .positions / .tokens)' "$out/real.json" "$out/kept.json" \
    >/dev/null || fail "the prefix cache: $(jq -c '.runs[-1] | [.positions, .tokens]' "$out/real.json" "$out/kept.json")"
for more in '--simulate --simulate-from x' '--shared-prompt 4'; do
    # shellcheck disable=SC2086
    if "$fathom" bench engine --model models/hops --prompts "$out/some.jsonl" $more >/dev/null 2>"$out/error"; then fail "accepted: $more"; fi
    grep -q 'prompts goes with neither' "$out/error" || fail "$more: $(cat "$out/error")"
done

if command -v gnuplot >/dev/null; then
    "$fathom" bench engine --model models/hops --device cpu --prompts "$out/some.jsonl" --sequences 3,8 --repeat 1 \
        --plot "$out/engine.svg" >/dev/null 2>&1
    for text in 'hops: batching modes' '40 real prompts; below: 8 sequences' 'depthwise last: rows of a launch' '3 sequences' \
        'bound by the depths' 'mean 1.17 of 8\|mean 1.18 of 8\|mean 1.16 of 8'; do
        grep -q "$text" "$out/engine.svg" || fail "the picture has no '$text'"
    done
fi
status=0
PATH=/nonexistent "$fathom" bench engine --model models/hops --plot "$out/x.svg" >/dev/null 2>"$out/error" || status=$?
[ $status -eq 2 ] || fail "status $status without gnuplot"
grep -q 'needs gnuplot' "$out/error" || fail "without gnuplot: $(cat "$out/error")"

# The same of a family with several core layers, a hazard gate and a cap: the demo's tokenizer over
# random weights.
"$fathom" init --variant ouro_tiny --out "$out/shape" --dtype float32 >/dev/null
jq '.vocab_size = 2048' "$out/shape/config.json" >"$out/config.json"
"$fathom" init --config "$out/config.json" --out "$out/ouro" --dtype float32 --mean-depth 2.5 >/dev/null
cp models/demo/tokenizer.json models/demo/tokenizer_config.json "$out/ouro"
ouro="--model $out/ouro --device cpu"
text="--text models/demo/held_out.txt --first 512"

# shellcheck disable=SC2086
"$fathom" score $ouro $text --window 128 >"$out/score.json" 2>/dev/null
jq -e '.family == "ouro" and .core_layers == 3 and .exit == {rule: "hazard", threshold: 0.5}
    and .mean_depth > 1.5 and .mean_depth < 3.5 and (.depth_histogram | length) == 4' "$out/score.json" >/dev/null || fail "score: $(cat "$out/score.json")"
# shellcheck disable=SC2086
"$fathom" score $ouro $text --window 128 --halted-kv last >"$out/score.json" 2>/dev/null
jq -e '.mean_depth == 4' "$out/score.json" >/dev/null || fail "with last a prompt must run every loop: $(cat "$out/score.json")"
# shellcheck disable=SC2086
"$fathom" score $ouro $text --window 128 --halted-kv last --prompt-min-loops 2 >"$out/score.json" 2>/dev/null
jq -e '.depth_histogram[0] == 0 and .depth_histogram[1] > 0 and .mean_depth < 4' "$out/score.json" >/dev/null ||
    fail "--prompt-min-loops 2: $(cat "$out/score.json")"
# shellcheck disable=SC2086
"$fathom" compare $ouro $text --at-loops 1,4 --json >"$out/compare.json" 2>/dev/null
jq -e '.exit.rule == "hazard" and .runs[0].mean_kl == 0 and .runs[1].policy == "last" and .runs[1].mean_kl > 0
    and .runs[1].cache_bytes_per_token < .runs[0].cache_bytes_per_token
    and .runs[0].cache_bytes_per_token == 4 * 1536 and .runs[2].cache_bytes_per_token == 1536
    and .runs[2].policy == "collapse" and .runs[2].mean_kl > 0
    and .runs[3].mean_depth == 1 and .runs[4].mean_kl == 0' "$out/compare.json" >/dev/null || fail "compare: $(cat "$out/compare.json")"
# shellcheck disable=SC2086
"$fathom" bench engine $ouro --sequences 3 --repeat 1 --prompt-tokens 12 --output-tokens 12 --json >"$out/bench.json" 2>"$out/bench.txt"
jq -e '.family == "ouro" and .core_layers == 3 and ([.runs[].tokens_differing] | add == 0)
    and all(.runs[]; .max_loops == 4 and .mean_depth <= 4)' "$out/bench.json" >/dev/null || fail "bench engine on an Ouro"
grep -q 'ouro, 3 core layers, exit by hazard at 0.5, 4 loops' "$out/bench.txt" || fail "bench engine names no rule"
# shellcheck disable=SC2086
"$fathom" bench engine $ouro --sequences 3 --repeat 2 --prompt-tokens 12 --output-tokens 40 --modes depthwise/exact,depthwise/collapse \
    --json >"$out/bench.json" 2>"$out/bench.txt"
jq -e '[.runs[].policy] == ["exact", "exact", "collapse"] and ([.runs[].tokens_differing] | add == 0)' "$out/bench.json" >/dev/null ||
    fail "bench engine with collapse: $(cat "$out/bench.txt")"
# shellcheck disable=SC2086
if "$fathom" compare $ouro $text --at-loops 5 2>"$out/err"; then fail "compare took 5 loops of 4"; fi
grep -q 'from 1 to 4' "$out/err" || fail "compare: $(cat "$out/err")"

# Weights made for an agreement have it: compare draws other tokens with other random numbers, so it differs by chance only.
for family in ouro_tiny tiny huginn_tiny; do
    "$fathom" init --variant $family --out "$out/agrees" --dtype float32 --agreement 0.8 >/dev/null 2>"$out/err" || fail "init: $(cat "$out/err")"
    grep -q 'agree on 80' "$out/err" || grep -q 'agree on 79' "$out/err" || fail "the smaller model of $family: $(cat "$out/err")"
    "$fathom" compare --model "$out/agrees" --device cpu --made-up 1024 --at-loops 1 --json >"$out/compare.json" 2>/dev/null
    jq -e '.tokens == 1024 and .runs[0].drawn_agreement == 1 and (.runs[3].drawn_agreement - 0.8 | fabs) < 0.06' "$out/compare.json" >/dev/null ||
        fail "agreement of $family: $(cat "$out/compare.json")"
    [ ! -e "$out/agrees.fathom-trial" ] || fail "init left a smaller model behind"
    rm -r "$out/agrees"
done

# An init that is ended while it measures leaves no smaller model; one that is killed leaves it to the next one.
searching() { # SIGNAL, STATUS: runs init until there is a smaller model, then ends it
    env --default-signal=INT,TERM,HUP "$fathom" init --config-json bench/tools/configs/depthwise-b.json --agreement 0.9 --out "$out/ended" 2>"$out/err" &
    pid=$!
    until [ -e "$out/ended.fathom-trial/model.safetensors" ]; do kill -0 $pid || fail "init: $(cat "$out/err")"; sleep 0.01; done
    kill -"$1" $pid
    rc=0
    wait $pid || rc=$?
    [ $rc -eq "$2" ] || fail "init after SIG$1: status $rc, expected $2: $(cat "$out/err")"
    [ ! -e "$out/ended" ] || fail "init after SIG$1 made the folder"
}
for ends in INT:130 TERM:143 HUP:129; do
    searching ${ends%:*} ${ends#*:}
    [ ! -e "$out/ended.fathom-trial" ] || fail "init after SIG${ends%:*} left $(ls "$out/ended.fathom-trial")"
done
searching KILL 137
[ -e "$out/ended.fathom-trial" ] || fail "a killed init cleaned up"
"$fathom" init --variant ouro_tiny --agreement 0.8 --out "$out/ended" >/dev/null 2>"$out/err" || fail "init beside a leftover: $(cat "$out/err")"
[ ! -e "$out/ended.fathom-trial" ] || fail "init kept a leftover"
# A folder with a model is refused before anything is measured.
if "$fathom" init --variant ouro_tiny --agreement 0.8 --out "$out/ended" 2>"$out/err"; then fail "init wrote over a model"; fi
grep -q 'exists already' "$out/err" && ! grep -q measuring "$out/err" || fail "init over a model: $(cat "$out/err")"
# So is one for which there is no room.
if "$fathom" init --variant mythos_1t --agreement 0.8 --out "$out/huge" 2>"$out/err"; then fail "init wrote two terabytes"; fi
grep -q 'GB free' "$out/err" && ! grep -q measuring "$out/err" || fail "init without room: $(cat "$out/err")"
[ ! -e "$out/huge" ] && [ ! -e "$out/huge.fathom-trial" ] || fail "init without room left a folder"

for bad in "init --variant nanbeige_tiny --agreement 0.9 --out $out/none" \
    "init --variant huginn_tiny --mean-depth 2 --agreement 0.9 --out $out/none" \
    "compare --model models/demo --text models/demo/held_out.txt --made-up 9" "compare --model models/demo --made-up 1"; do
    # shellcheck disable=SC2086
    if "$fathom" $bad >/dev/null 2>&1; then fail "accepted: $bad"; fi
    [ ! -e "$out/none" ] || fail "made a folder: $bad"
done

for bad in 0.9,0.8 2 -1 '0.5,' x; do
    "$fathom" bench engine --model models/demo --simulate --costs 'prelude=0,0 recurrent=0,100 coda=0,0' --mean-depth 3 --agreement=$bad \
        >/dev/null 2>"$out/err" && fail "accepted: --agreement $bad"
    grep -q 'give numbers from 0 to 1' "$out/err" || fail "--agreement $bad: $(cat "$out/err")"
done
for bad in "bench engine --model models/demo --sequences 0" "bench engine --model models/demo --modes none" \
    "bench engine --model models/demo --sequences 2 --prompt-tokens 900 --output-tokens 900" \
    "bench engine --model models/demo --clock cpu" "bench engine --model models/demo --simulate" \
    "bench engine --model models/demo --simulate --simulate-from nowhere" \
    "bench engine --model models/demo --simulate --simulate-from models/demo/config.json" \
    "bench engine --model models/demo --simulate --mean-depth 3 --costs prelude=1" \
    "bench engine --model models/demo --speculate on" "bench engine --model models/demo --speculate 0" \
    "bench engine --model models/demo --speculate 65" "bench engine --model models/demo --speculate off,,3" \
    "bench engine --model models/demo --speculate 1,2,3,4,5,6,7,8,9" "compare --model models/demo --text nowhere" \
    "compare --model models/demo --text models/demo/held_out.txt --at-loops 0" \
    "compare --model models/demo --text models/demo/held_out.txt --window 2000"; do
    # shellcheck disable=SC2086
    if "$fathom" $bad --device cpu >/dev/null 2>&1; then fail "accepted: $bad"; fi
done
echo "bench engine and compare: ok"

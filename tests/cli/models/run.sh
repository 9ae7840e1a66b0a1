#!/bin/sh
# The commands init and inspect: what they print, and the status they end with.
set -eu
cd "$(dirname "$0")/../../.."
fathom=build/fathom
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
. tests/lib/ends.sh

for c in init inspect; do
    ends 0 "" $fathom $c --help
    grep -q '^Example:' "$dir/out" || fail "$c --help has no example"
    ends 0 "" $fathom $c --version
    ends 2 "unknown option '--nonsense'" $fathom $c --nonsense
done

ends 0 "" $fathom init --variant tiny --out "$dir/tiny" --dtype float32 --mean-depth 4 --seed 3
ends 2 "nothing is overwritten" $fathom init --variant tiny --out "$dir/tiny"
ends 0 "" $fathom init --config "$dir/tiny/config.json" --out "$dir/again" --dtype float32 --mean-depth 4 --seed 3
cmp "$dir/tiny/model.safetensors" "$dir/again/model.safetensors" || fail "same seed, other bytes"
cmp "$dir/tiny/config.json" "$dir/again/config.json" || fail "config changed on its way"
ends 2 "give one of --variant and --config" $fathom init --out "$dir/x"
ends 2 "give one of --variant and --config" $fathom init --variant tiny --config "$dir/tiny/config.json" --out "$dir/x"
ends 2 'no variant "mythos_2b"' $fathom init --variant mythos_2b --out "$dir/x"
ends 2 "--dtype must be one of" $fathom init --variant tiny --dtype int8 --out "$dir/x"
ends 2 "mean depth is 9" $fathom init --variant tiny --mean-depth 9 --out "$dir/x"
ends 1 "No such file" $fathom init --variant tiny --out "$dir/no/such/place"
[ ! -e "$dir/x" ] || fail "a refused init left a folder behind"

ends 0 "" $fathom inspect --model models/demo
grep -q 'routed experts' "$dir/out" || fail "inspect names no parts"
ends 0 "" $fathom inspect --model models/demo --json --check
if command -v jq >/dev/null; then
    jq -e '.parameters == 2378538 and .dtype == "BF16" and .trained_loops == 8 and .tokenizer
           and ([.parts[].parameters] | add) == .parameters
           and ([.parts[].bytes] | add) == .bytes' "$dir/out" >/dev/null || fail "inspect --json: $(cat "$dir/out")"
fi
ends 0 "" $fathom init --variant ouro_tiny --out "$dir/ouro" --dtype float32 --mean-depth 2.5
grep -q '"early_exit_threshold": 0.5' "$dir/ouro/config.json" || fail "a mean depth must name the gate's threshold"
ends 0 "" $fathom init --variant ouro_tiny --out "$dir/ouro-full" --dtype float32
grep -q '"early_exit_threshold": 1' "$dir/ouro-full/config.json" || fail "without one every loop runs"
ends 2 "cannot name a policy" $fathom init --variant ouro_tiny --halted-kv last --out "$dir/x"
ends 0 "" $fathom inspect --model "$dir/ouro"
for line in 'family *ouro$' 'layers *0 prelude, 3 core (once per loop), 0 coda' 'exit rule *hazard at 0.5 (.*latent-diff, cosine, fixed)' \
    'loops *4 by default, at most 4$' 'one loop, 3 layers *384 ' 'a token of 2.5 loops *960 .*1920 B' 'a token of 4 loops *1,536 .*3072 B'; do
    grep -q "$line" "$dir/out" || fail "inspect does not say '$line': $(cat "$dir/out")"
done
grep -q experts "$dir/out" && fail "inspect tells of experts that an Ouro does not have"
ends 2 "at most 4 loops" $fathom inspect --model "$dir/ouro" --mean-depth 5
ends 0 "" $fathom inspect --model "$dir/ouro" --json --mean-depth 3
if command -v jq >/dev/null; then
    jq -e '.family == "ouro" and .core_layers == 3 and .exit == {rule: "hazard", threshold: 0.5}
           and .exit_rules == ["hazard", "latent-diff", "cosine", "fixed"]
           and .loops == {default: 4, least: 1, most: 4, capped: true} and .trained_loops == 4
           and .cache.values_per_layer == 128 and .cache.values_full_attention == 128
           and .cache.values_per_slot == 384 and ([.cache.depths[] | .bytes_bf16] == [2304, 3072])' "$dir/out" >/dev/null ||
        fail "inspect --json: $(cat "$dir/out")"
fi
ends 0 "" $fathom inspect --model tests/golden/families/huginn --check
for line in 'family *huginn$' "norms *of a sublayer's input, and of the sum with its output" 'a bias of queries and keys' \
    'embedding *scaled by 8$' "loop's input *a matrix of state and input" 'first state *drawn by position, std 0.6325' \
    'exit rule *latent-diff at 0, so every loop runs' 'a collapsed token *1,536 .*3072 B'; do
    grep -q "$line" "$dir/out" || fail "inspect does not say '$line': $(cat "$dir/out")"
done
ends 0 "" $fathom inspect --model tests/golden/families/nanbeige
grep -q 'loops *always 2$' "$dir/out" || fail "inspect of a fixed number of loops: $(cat "$dir/out")"
ends 2 "run a fixed number of loops" $fathom init --variant nanbeige_tiny --mean-depth 2 --out "$dir/x"
ends 0 "" $fathom init --variant parcae_tiny --mean-depth 4 --out "$dir/parcae"
ends 0 "" $fathom inspect --model "$dir/parcae" --json
if command -v jq >/dev/null; then
    jq -e '.family == "parcae" and .exit.rule == "latent-diff" and .parts.value_embeddings.parameters == 61440
           and .plan.inject == "diagonal" and .plan.value_embeds == [1, 3, 5] and .plan.qk_norm == "head-unit"
           and .cache.bytes_per_token_collapsed_bf16 == 1576' "$dir/out" >/dev/null ||
        fail "inspect --json: $(cat "$dir/out")"
fi
ends 0 "" $fathom inspect --model models/demo
grep -q 'full multi-head *512 *this model.s is 6.4 times smaller' "$dir/out" || fail "inspect compares no caches: $(cat "$dir/out")"
ends 0 "" $fathom inspect --variant mythos_100b --ranks 2 --device h200
for line in '^mythos_100b on 2 ranks of h200 (141.0 GB of memory): computed, not measured$' 'fewest ranks that fit *2$' '^  sequences, sums  *2 ' '^  replicas  *- *- *- *-$'; do
    grep -q "$line" "$dir/out" || fail "inspect --ranks does not say '$line': $(cat "$dir/out")"
done
ends 0 "" $fathom inspect models/demo --ranks 2 --device cpu --read-gbs 40 --json --context 64
if command -v jq >/dev/null; then
    jq -e '.device.read_gb_per_s == 40 and .context == 64 and (.memory.divided_bytes | length) == 2
           and (.memory.divided_bytes | add) + .memory.undivided_bytes == 2 * 2378538
           and .splits.columns[0].exchanges == 2 and .splits.replicas[3].received_bytes == 0' "$dir/out" >/dev/null ||
        fail "inspect --ranks --json: $(cat "$dir/out")"
fi
FATHOM_DEVICE=cuda ends 0 "" $fathom inspect --variant tiny --ranks 2
ends 2 "give one of --model and --variant" $fathom inspect models/demo --variant tiny
ends 2 "no variant" $fathom inspect --variant mythos_2b --ranks 2
ends 2 "at most 4 loops" $fathom inspect --variant ouro_1.4b --ranks 2 --mean-depth 5
ends 2 "--ranks must be" $fathom inspect --variant tiny --ranks 65
ends 2 "--device must be one of" $fathom inspect --variant tiny --device a100
ends 2 "No such file" $fathom inspect --model "$dir/nothing"
ends 2 "expected a model folder, found a file" $fathom inspect --model Makefile
ends 2 "no model 'nothing'" $fathom inspect nothing
cp -r "$dir/tiny" "$dir/cut"
truncate -s -1 "$dir/cut/model.safetensors"
ends 2 "lie outside" $fathom inspect --model "$dir/cut"
cp -r "$dir/tiny" "$dir/tok"
echo '{}' >"$dir/tok/tokenizer.json"
# A tokenizer that cannot be used stops only what needs text.
ends 0 "the tokenizer cannot be used" $fathom inspect --model "$dir/tok"
grep -q 'no tokenizer: prompts are token ids' "$dir/out" || fail "inspect: $(cat "$dir/out")"
ends 0 "the tokenizer cannot be used" $fathom generate --device cpu --model "$dir/tok" --ids '1 2 3' --max-tokens 2 --json
jq -e '.text == (.ids | join(" ")) and (.ids | length) == 2' "$dir/out" >/dev/null || fail "generate: $(cat "$dir/out")"
[ "$(grep -c WARN "$dir/err")" -le 1 ] || fail "more than one warning: $(cat "$dir/err")"
ends 2 "no tokenizer (tokenizer.json" $fathom generate --device cpu --model "$dir/tok" --prompt x
ends 0 "" $fathom generate --device cpu --model "$dir/tok" --no-tokenizer --ids '1 2 3' --max-tokens 2
! grep -q 'tokenizer cannot' "$dir/err" || fail "--no-tokenizer still reads it: $(cat "$dir/err")"
echo '[[1,2,3]]' >"$dir/ids.json"
ends 0 "" $fathom score --device cpu --model "$dir/tok" --no-tokenizer --ids "$dir/ids.json"
ends 2 "no tokenizer (--no-tokenizer was given); give token ids with --ids" $fathom score --device cpu --model models/demo --no-tokenizer --text README.md
ends 2 "no tokenizer (--no-tokenizer was given)" $fathom compare --device cpu --model models/demo --no-tokenizer --text README.md

#!/bin/sh
# The converter: every form of checkpoint becomes the same model, the bad ones are refused.
# Exit 77 where torch is not installed (Debian 12: python3-torch).
set -eu
cd "$(dirname "$0")/../../.."
python=
for p in /usr/bin/python3 python3; do
    if command -v "$p" >/dev/null && "$p" -c 'import torch' 2>/dev/null; then python=$p; break; fi
done
[ -n "$python" ] || { echo "skipped: python3-torch is not installed"; exit 77; }
golden=tests/golden/cases/mla_deep
ouro=tests/golden/families/ouro
parcae=tests/golden/families/parcae
fathom=build/fathom
score() { # one code path: a measured choice may differ between runs in the last digit
    $fathom score --kernels portable --device cpu "$@"
}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
fail() { echo "FAIL: $*" >&2; exit 1; }

"$python" tests/folders/convert/make_checkpoints.py $golden $ouro $parcae "$dir"
echo '[[1,2,3,4,5,6,7,8,9,10,11,12],[300,200,100]]' >"$dir/ids.json"
echo '[[1,2,3,4,5,6,7,8,9,10,11,12],[90,20,30]]' >"$dir/ouro_ids.json"
score --model $golden --ids "$dir/ids.json" >"$dir/expected"
convert() { "$python" tools/convert_openmythos.py "$@"; }

# Long work is told of: nothing for a second, then one line redrawn on a terminal, else one every 10 s.
"$python" - <<'END' || fail "progress"
import io, sys
sys.path.insert(0, "tools")
from torch_checkpoint import Progress

def told(terminal, seconds):
    class Screen(io.StringIO):
        def isatty(self):
            return terminal
    clock, out = [0.0], Screen()
    progress = Progress("writing x", 2_000_000_000, out, lambda: clock[0])
    for _ in range(int(seconds * 10)):
        clock[0] += 0.1
        progress.add(int(2_000_000_000 / seconds / 10))
    progress.stop()
    return out.getvalue()

assert told(True, 0.9) == told(False, 0.9) == told(False, 9) == ""
lines = told(False, 25).splitlines()
assert lines == ["writing x: 40 % of 2.0 GB, 15 s left", "writing x: 80 % of 2.0 GB, 5 s left"], lines
redrawn = told(True, 5)
assert "\n" not in redrawn and 15 <= redrawn.count("writing x") <= 25 and redrawn.endswith("\r\x1b[K"), redrawn
END
echo "ok progress"

forms="training dict_cfg bare ddp fsdp legacy parameters beside namespace more evil_beside"
[ -e "$dir/numpy_cfg.pt" ] && forms="$forms numpy_cfg"
for form in $forms; do
    config=
    [ $form = bare ] && config="--config $golden/config.json"
    # shellcheck disable=SC2086
    convert "$dir/$form.pt" "$dir/$form" $config >/dev/null 2>"$dir/err-$form" || fail "$form: $(cat "$dir/err-$form")"
    score --model "$dir/$form" --ids "$dir/ids.json" >"$dir/found" || fail "$form: does not score"
    cmp -s "$dir/expected" "$dir/found" || fail "$form: scores differ from the original's"
    echo "ok $form"
done

for name in recurrent.steps prelude.7.attn_norm.weight extra_head.weight coda.0._extra_state; do
    grep -qF "left out: $name (" "$dir/err-more" || fail "$name was left out without a word"
done
[ "$(wc -l <"$dir/err-more")" -eq 4 ] || fail "left out too much: $(cat "$dir/err-more")"
[ ! -s "$dir/err-training" ] || fail "a whole checkpoint: $(cat "$dir/err-training")"

for dtype in bfloat16 float16; do
    convert "$dir/training.pt" "$dir/$dtype" --dtype $dtype --halted-kv last >/dev/null
    $fathom inspect --model "$dir/$dtype" --json >"$dir/inspect" || fail "$dtype: does not load"
    grep -q '"halted_kv":"last"' "$dir/inspect" || fail "$dtype: policy lost"
    echo "ok $dtype"
done

refused() { # NAME, what the message must say
    if convert "$dir/$1.pt" "$dir/bad" >"$dir/out" 2>"$dir/err"; then fail "$1: accepted"; fi
    grep -q "$2" "$dir/err" || fail "$1: says '$(cat "$dir/err")', expected '$2'"
    grep -q Traceback "$dir/err" && fail "$1: a traceback"
    [ ! -e "$dir/bad/model.safetensors" ] || fail "$1: left a model behind"
    echo "ok $1 refused"
}
refused evil 'only tensors and plain values are read'
[ ! -e "$dir/ran" ] || fail "code inside a checkpoint ran"
refused stranger_cfg "cfg holds a elsewhere.things.Thing; only tensors and plain values are read"
refused stranger_class "cfg holds a elsewhere.things.Thing"
refused stranger_model "model holds a elsewhere.things.Thing"
refused list_cfg "configuration's dim is a list"
refused no_cfg 'name a config.json with --config'
refused no_model 'no state dict in the checkpoint'
refused other 'no tensor embed.weight'
refused twice 'two tensors are called embed.weight'
refused short_cfg 'lacks rope_theta'
refused text 'not a torch checkpoint'
refused nowhere 'No such file'
if convert "$dir/training.pt" "$dir/training" 2>"$dir/err"; then fail "an existing model was overwritten"; fi
grep -q 'nothing is overwritten' "$dir/err" || fail "overwriting: $(cat "$dir/err")"
echo "ok existing folder kept"

# ---- pytorch_model.bin ----

convert_bin() { "$python" tools/convert_bin.py "$@"; }
score --model $ouro --ids "$dir/ouro_ids.json" >"$dir/expected"
for form in ouro_bin ouro_parts; do
    convert_bin "$dir/$form" "$dir/$form-out" >/dev/null || fail "$form: not converted"
    cmp -s "$dir/$form/tokenizer.json" "$dir/$form-out/tokenizer.json" || fail "$form: the tokenizer was lost"
    rm "$dir/$form-out/tokenizer.json"
    score --model "$dir/$form-out" --ids "$dir/ouro_ids.json" >"$dir/found" || fail "$form: does not score"
    cmp -s "$dir/expected" "$dir/found" || fail "$form: scores differ from the original's"
    echo "ok $form"
done
convert_bin "$dir/parcae_bin" "$dir/parcae" >/dev/null 2>"$dir/err" || fail "parcae: $(cat "$dir/err")"
grep -q 'left out: lm_head.weight (it is transformer.wte.weight)' "$dir/err" || fail "parcae: says '$(cat "$dir/err")'"
grep -q 'left out: steps (its dtype is torch.int64)' "$dir/err" || fail "parcae: says '$(cat "$dir/err")'"
"$python" tests/folders/convert/make_checkpoints.py check-parcae "$dir/parcae" || fail "parcae: tensors were changed"
grep -q 'left out: freqs_cis (config.json tells it)' "$dir/err" || fail "parcae: says '$(cat "$dir/err")'"
echo "ok parcae_bin"
convert_bin "$dir/parcae_golden" "$dir/parcae_golden-out" >/dev/null 2>"$dir/err" || fail "parcae_golden: $(cat "$dir/err")"
[ "$(wc -l <"$dir/err")" -eq 2 ] || fail "parcae_golden: says '$(cat "$dir/err")'"
rm "$dir/parcae_golden-out/tokenizer.json"
score --model $parcae --ids "$dir/ouro_ids.json" >"$dir/expected"
score --model "$dir/parcae_golden-out" --ids "$dir/ouro_ids.json" >"$dir/found" 2>"$dir/err" || fail "parcae_golden: $(cat "$dir/err")"
cmp -s "$dir/expected" "$dir/found" || fail "parcae_golden: scores differ from the original's"
if grep -qi warn "$dir/err"; then fail "parcae_golden: says '$(cat "$dir/err")'"; fi
echo "ok parcae_golden"
if convert_bin "$dir/evil_bin" "$dir/bad" 2>"$dir/err"; then fail "evil_bin: accepted"; fi
grep -q 'model holds a posix.system' "$dir/err" || fail "evil_bin: says '$(cat "$dir/err")'"
if convert_bin "$dir" "$dir/bad" 2>"$dir/err"; then fail "no folder of a model: accepted"; fi
grep -q Traceback "$dir/err" && fail "no folder of a model: a traceback"
[ ! -e "$dir/bad" ] && [ ! -e "$dir/ran" ] || fail "evil_bin left something behind"
echo "ok evil_bin refused"

# ---- the published model beside Fathom ----

compare_refuses() { # what the one line must say, then arguments
    says=$1; shift
    if "$python" tools/compare_openmythos.py "$@" >"$dir/out" 2>"$dir/err"; then fail "compare $*: accepted"; fi
    [ "$(wc -l <"$dir/err")" -eq 1 ] && grep -qF "$says" "$dir/err" || fail "compare $*: says '$(cat "$dir/err")', expected '$says'"
    echo "ok compare refuses: $says"
}
compare_refuses "is no OpenMythos model: model_type is 'ouro'" --openmythos "$dir" --model $ouro
compare_refuses "config.json" --openmythos "$dir" --model "$dir/nothing"
compare_refuses "no open_mythos/main.py under $dir" --openmythos "$dir" --model "$dir/training"
$fathom init --variant tiny --dtype float32 --shard-bytes 200K --out "$dir/shards" >/dev/null 2>&1
compare_refuses "holds no model.safetensors" --openmythos "$dir" --model "$dir/shards"
# With a checkout of OpenMythos: a tied and an untied folder give the same tokens as the published code.
if [ -n "${OPENMYTHOS:-}" ]; then
    "$python" tests/folders/convert/make_checkpoints.py untied "$dir/training" "$dir/untied"
    for folder in training untied; do
        "$python" tools/compare_openmythos.py --openmythos "$OPENMYTHOS" --model "$dir/$folder" --sequences 2 --repeat 1 \
            --threads 1 >"$dir/out" 2>"$dir/err" || fail "compare $folder: $(cat "$dir/out" "$dir/err")"
        echo "ok compare $folder: $(tail -1 "$dir/out")"
    done
fi

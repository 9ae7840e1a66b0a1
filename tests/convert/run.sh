#!/bin/sh
# The converter: every form of checkpoint becomes the same model, the bad ones are refused.
# Exit 77 where torch is not installed (Debian 12: python3-torch).
set -eu
cd "$(dirname "$0")/../.."
python=
for p in /usr/bin/python3 python3; do
    if command -v "$p" >/dev/null && "$p" -c 'import torch' 2>/dev/null; then python=$p; break; fi
done
[ -n "$python" ] || { echo "skipped: python3-torch is not installed"; exit 77; }
golden=tests/golden/cases/mla_deep
fathom=build/fathom
score() { # one code path: a measured choice may differ between runs in the last digit
    $fathom score --kernels portable --device cpu "$@"
}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
fail() { echo "FAIL: $*" >&2; exit 1; }

"$python" tests/convert/make_checkpoints.py $golden "$dir"
echo '[[1,2,3,4,5,6,7,8,9,10,11,12],[300,200,100]]' >"$dir/ids.json"
score --model $golden --ids "$dir/ids.json" >"$dir/expected"
convert() { "$python" tools/convert_openmythos.py "$@"; }

for form in training dict_cfg bare ddp fsdp legacy parameters; do
    config=
    [ $form = bare ] && config="--config $golden/config.json"
    # shellcheck disable=SC2086
    convert "$dir/$form.pt" "$dir/$form" $config >/dev/null || fail "$form: not converted"
    score --model "$dir/$form" --ids "$dir/ids.json" >"$dir/found" || fail "$form: does not score"
    cmp -s "$dir/expected" "$dir/found" || fail "$form: scores differ from the original's"
    echo "ok $form"
done

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

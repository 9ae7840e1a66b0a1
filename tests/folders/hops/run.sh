#!/bin/sh
# The recipe of the hops model, without training: its tokenizer and its export give the files of models/hops, byte for
# byte, and its training pass computes what the plain pass computes. Where PyTorch is missing, the tokenizer alone.
set -eu
cd "$(dirname "$0")/../../.."
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
fail() { echo "FAIL: $*" >&2; exit 1; }
command -v python3 >/dev/null || { echo "skipped: python3 is not installed"; exit 77; }
export PYTHONDONTWRITEBYTECODE=1
run=tools/hops/run.sh

python3 tools/hops/tokenizer.py "$dir"
cmp "$dir/tokenizer.json" models/hops/tokenizer.json || fail "another tokenizer"

$run --help | grep -q '^example: tools/hops/run.sh' || fail "no example in --help"
refused() { # what it says, arguments...
    says=$1 status=0
    shift
    $run "$@" >/dev/null 2>"$dir/error" || status=$?
    [ $status -eq 2 ] || fail "status $status: $*"
    grep -q -- "$says" "$dir/error" || fail "'$says' is not in: $(cat "$dir/error")"
}
refused "unknown option '--mins'" --mins 1
refused '--minutes needs a value' --minutes
refused "not 'soon'" --minutes soon
refused "not '-1'" --seed -1

python=
for one in /usr/bin/python3 python3; do
    if "$one" -c 'import torch' 2>/dev/null; then python=$one; break; fi
done
if [ -z "$python" ]; then
    refused 'PyTorch is missing (Debian: apt install python3-torch' --out "$dir/none"
    [ ! -e "$dir/none" ] || fail "a folder without a model"
    echo "recipe of hops: ok, without PyTorch"
    exit 0
fi
"$python" tools/hops/export.py "$dir" --from models/hops >"$dir/export.txt"
for file in config.json generation_config.json tokenizer_config.json model.safetensors questions.jsonl; do
    cmp "$dir/$file" "models/hops/$file" || fail "another $file"
done
# The leads are sums of floats, whose order is the library's affair.
for folder in "$dir" models/hops; do jq 'del(.. | .smallest_lead?)' "$folder/expected.json" >>"$dir/expected.txt"; done
half=$(($(wc -l <"$dir/expected.txt") / 2))
[ "$(head -n $half "$dir/expected.txt")" = "$(tail -n $half "$dir/expected.txt")" ] || fail "another expected.json"
"$python" tools/hops/check_training.py "$dir" >"$dir/training.txt" || fail "$(cat "$dir/training.txt")"
echo "recipe of hops: ok"

#!/bin/sh
# Trains the hops model from nothing and writes a folder that Fathom serves.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)

usage() {
    cat <<'END'
usage: tools/hops/run.sh [--out DIR] [--minutes M] [--seed N]

Trains the hops model: tokenizer, training, export, and then 200 held-out questions.

  --out DIR      folder to write (default build/hops); it may exist, and its files are replaced
  --minutes M    how long to train (default 15.5)
  --seed N       seed of weights and texts (default 0)

It needs one processor core, 500 MB of memory and PyTorch. With the default time the model
answered all 200 questions on one core of an AMD EPYC with OpenBLAS. With the reference BLAS a
step takes several times as long, so give it more minutes. One minute shows that everything
works, and teaches the first step at most.

example: tools/hops/run.sh --minutes 1 --out /tmp/hops
END
}

out=$root/build/hops minutes=15.5 seed=0
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help) usage; exit 0 ;;
    --out | --minutes | --seed)
        [ $# -gt 1 ] || { echo "run.sh: $1 needs a value" >&2; exit 2; }
        case $1 in --out) out=$2 ;; --minutes) minutes=$2 ;; *) seed=$2 ;; esac
        shift 2 ;;
    *) echo "run.sh: unknown option '$1' (see tools/hops/run.sh --help)" >&2; exit 2 ;;
    esac
done
case $minutes in '' | *[!0-9.]* | *.*.* | .) echo "run.sh: --minutes takes a number, not '$minutes'" >&2; exit 2 ;; esac
case $seed in '' | *[!0-9]*) echo "run.sh: --seed takes a whole number, not '$seed'" >&2; exit 2 ;; esac

# Debian's PyTorch belongs to Debian's Python, which another python3 may hide.
python=${PYTHON:-}
for one in $python python3 /usr/bin/python3; do
    if "$one" -c 'import torch' 2>/dev/null; then python=$one && break; fi
    python=
done
if [ -z "$python" ]; then
    echo "run.sh: PyTorch is missing (Debian: apt install python3-torch libopenblas0-pthread)" >&2
    exit 2
fi
mkdir -p "$out"
export PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
# glibc gives freed memory back to the system, and a step frees and takes the same blocks again.
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=100000000

echo "1/4 tokenizer"
"$python" "$here/tokenizer.py" "$out"
echo "2/4 training for $minutes minutes (seed $seed)"
"$python" "$here/train.py" "$out" --minutes "$minutes" --seed "$seed"
echo "3/4 export to $out"
"$python" "$here/export.py" "$out"
echo "4/4 questions"
fathom=$root/build/fathom
if [ -x "$fathom" ]; then
    "$fathom" compare --model "$out" --questions "$out/questions.jsonl" --at-loops 1,2,4,8
else
    echo "build Fathom, and then: build/fathom compare --model $out --questions $out/questions.jsonl"
fi

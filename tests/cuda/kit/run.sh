#!/bin/sh
# The script of the first run on a GPU, driven through all its gates with programs that only pretend.
# Exit 77 where python3 is too old or missing.
set -eu
cd "$(dirname "$0")/../../.."
python3 -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null || { echo "skipped: python3 is missing or older than 3.9"; exit 77; }
exec python3 -B -m unittest discover -s tests/cuda/kit -p 'test_*.py'

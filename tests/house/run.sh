#!/bin/sh
# How the tree reads: every folder keeps the limits of tools/readability.py, every link leads somewhere, and every figure has a
# commit, a command and a source.
# Exit 77 where python3 is too old or missing.
set -eu
cd "$(dirname "$0")/../.."
python3 -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null || { echo "skipped: python3 is missing or older than 3.9"; exit 77; }
python3 -B -m unittest discover -s tests/house -p 'test_*.py'
tools/links.py
tools/claims.py
exec tools/readability.py --check

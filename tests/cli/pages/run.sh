#!/bin/sh
# Every command that the README and the pages of docs/ print works. Exit 77 where python3 is too old or missing.
set -eu
cd "$(dirname "$0")/../../.."
python3 -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null || { echo "skipped: python3 is missing or older than 3.9"; exit 77; }
exec python3 -B tests/cli/pages/pages.py "$@"

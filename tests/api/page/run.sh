#!/bin/sh
# docs/api.md agrees with the server: its tables, its examples, and the fields that it calls refused.
# Exit 77 where python3 is too old or missing.
set -eu
cd "$(dirname "$0")/../../.."
python3 -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null || { echo "skipped: python3 is missing or older than 3.9"; exit 77; }
exec tools/api_tables.py --check

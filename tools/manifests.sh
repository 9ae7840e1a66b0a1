#!/bin/sh
# Writes deploy/kubernetes/*.yaml for clusters without Helm: the chart with its defaults, and with each file of deploy/helm/examples.
# tools/manifests.sh [FOLDER] writes them elsewhere.
set -eu
cd "$(dirname "$0")/.."
folder=${1:-deploy/kubernetes}
write() { # NAME WORDS VALUES...
    name=$1 words=$2; shift 2
    {
        echo "# Rendered by \`make manifests\` from deploy/helm/fathom with $words, for the namespace default. Change the chart, not this file."
        tools/helm.sh template fathom deploy/helm/fathom "$@" | grep -v '^# Source: '
    } >"$folder/$name.yaml.new"
    mv "$folder/$name.yaml.new" "$folder/$name.yaml"
}
write fathom "its defaults"
for values in deploy/helm/examples/*.yaml; do
    write "fathom-$(basename "$values" .yaml)" "$values" -f "$values"
done

#!/usr/bin/env bash
# Two builds of fathom in turn with the same arguments, and the medians of one column.
#
#   bench/tools/alternate.sh OLD NEW ROUNDS COLUMN ARGUMENTS...
#
# COLUMN counts the fields of a line from 1, or with a minus sign from the end. A line's name is its
# words; lines without a number in that column are passed over. For example, tokens/s:
#   bench/tools/alternate.sh old/fathom build/fathom 9 3 bench engine --model models/demo --sequences 16 \
#       --threads 1 --clock cpu --kernels avx2 --output-tokens 32 --repeat 1
# and shares of the bound by wall time:
#   bench/tools/alternate.sh old/fathom build/fathom 3 -3 bench kernels --model DIR --threads 2 --rows 1
set -eu
[ $# -ge 5 ] || { sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 2; }
old=$1 new=$2 rounds=$3 column=$4
shift 4
for ((i = 0; i < rounds; i++)); do
    "$old" "$@" 2>/dev/null | sed 's/^ */old /'
    "$new" "$@" 2>/dev/null | sed 's/^ */new /'
done | awk -v column="$column" '
    function median(text,   v, n, i, j, t) {
        n = split(text, v, " ")
        for (i = 2; i <= n; i++)
            for (j = i; j > 1 && v[j - 1] + 0 > v[j] + 0; j--) { t = v[j]; v[j] = v[j - 1]; v[j - 1] = t }
        return v[int((n + 1) / 2)]
    }
    {
        at = column > 0 ? column + 1 : NF + 1 + column
        if (at < 2 || at > NF || $at !~ /^[0-9]+(\.[0-9]+)?$/) next
        name = ""
        for (i = 2; i <= NF && $i !~ /^[0-9]/; i++) name = name (i > 2 ? " " : "") $i
        if (name == "") next
        if (!(name in seen)) { seen[name] = 1; names[++n_names] = name }
        all[$1, name] = all[$1, name] " " $at
    }
    END {
        for (i = 1; i <= n_names; i++)
            for (k = 1; k <= 2; k++) {
                which = k == 1 ? "old" : "new"
                if ((which, names[i]) in all)
                    printf "%-34s %s  median %10s  of%s\n", names[i], which,
                           median(all[which, names[i]]), all[which, names[i]]
            }
    }'

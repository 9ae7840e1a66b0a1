#!/bin/bash
# Completion in the shells themselves, the manual pages, and the page of options: made from the
# tables of the commands. A shell or a checker that is not installed is left out, and told.
set -u
cd "$(dirname "$0")/../../.." || exit 2
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
fail() { echo "FAIL: $*" >&2; exit 1; }
mkdir "$dir/bin" && ln -s "$PWD/build/fathom" "$dir/bin/fathom"
export PATH=$dir/bin:$PATH HOME=$dir
for shell in bash zsh fish; do
    fathom completion $shell >"$dir/fathom.$shell" || fail "completion $shell"
done
fathom completion tcsh 2>"$dir/err" && fail "tcsh is completed"
grep -q 'must be one of bash|zsh|fish' "$dir/err" || fail "completion tcsh: $(cat "$dir/err")"

# LINE, then the words that must be offered, and after "not" words that must not. An empty last word
# of LINE is written as a blank at its end.
lines=(
    "fathom se|serve|not score"
    "fathom serve --devi|--device|not --port"
    "fathom serve --device |auto cuda fake|not --port serve"
    "fathom serve --device cu|cuda|not cpu"
    "fathom serve ho|hops hops-extrapolates|not demo"
    "fathom serve --model ho|hops hops-extrapolates|not demo"
    "fathom generate --device |auto cuda|not fake"
    "fathom bench |engine kernels|not serve"
    "fathom bench engine --mo|--model --modes|not --model-name"
    "fathom bench --backe|--backend|not --modes"
    "fathom serve --speculate |auto off|not N 1"
    "fathom completion |bash zsh fish|not serve"
    "fathom serve --chat-template READ|README.md|not --port"
)
check() { # shell, function that prints what is offered after a line, one a line
    local shell=$1 offers=$2 row line words others word
    for row in "${lines[@]}"; do
        IFS='|' read -r line words others <<<"$row"
        $offers "$line" >"$dir/offers" 2>"$dir/err"
        for word in $words; do
            grep -qx -- "$word" "$dir/offers" || fail "$shell: '$line' offers no $word: $(cat "$dir/offers" "$dir/err")"
        done
        for word in ${others#not}; do
            ! grep -qx -- "$word" "$dir/offers" || fail "$shell: '$line' offers $word"
        done
    done
    echo "ok completion in $shell"
}

bash_offers() {
    bash --norc -c '. "$1"; line=$2
        read -ra COMP_WORDS <<<"${line//=/ = }"
        [[ $line == *" " ]] && COMP_WORDS+=("")
        COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
        _fathom
        printf "%s\n" "${COMPREPLY[@]}"' - "$dir/fathom.bash" "$1"
}
check bash bash_offers
bash_offers "fathom serve --device=c" | grep -qx cuda || fail "bash: --device=c"

if command -v fish >/dev/null; then
    fish_offers() { fish --no-config -c 'source $argv[1]; complete -C $argv[2]' "$dir/fathom.fish" "$1" | sed 's/\t.*//'; }
    check fish fish_offers
else
    echo "skipped completion in fish: it is not installed"
fi

if command -v zsh >/dev/null; then
    mkdir "$dir/functions" && cp "$dir/fathom.zsh" "$dir/functions/_fathom"
    cat >"$dir/offers.zsh" <<'EOF'
# What zsh itself would offer: compadd tells instead of adding.
fpath=($1 $fpath); autoload -Uz compinit; zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell "fpath=($1 \$fpath); PS1=; autoload -Uz compinit; compinit -u -d $2; compadd() {
    local -a found; builtin compadd -O found \"\$@\"; print -rl -- offer:\$^found; builtin compadd \"\$@\" }
    all-offers() { print -r -- the''-end }; zle -N all-offers; bindkey '^X^E' all-offers
    zstyle ':completion:*' list-prompt ''; LISTMAX=10000; print g''o"
zpty -r shell line '*go*'
# Keys are taken in turn, so the last one says that all has been offered.
zpty -n -w shell "$3"$'\t\t\x18\x05'
zpty -r shell line '*the-end*'
print -r -- $line
zpty -d shell
EOF
    zsh_offers() { timeout 300 zsh -f "$dir/offers.zsh" "$dir/functions" "$dir/dump" "$1" | tr -d '\r' | sed -n 's/.*offer://p'; }
    check zsh zsh_offers
else
    echo "skipped completion in zsh: it is not installed"
fi

# ---- manual pages ----
mkdir "$dir/man"
fathom manual --date 2026-01-01 >"$dir/man/fathom.1" || fail "manual"
fathom manual --list | while read -r command; do
    fathom manual --date 2026-01-01 "$command" >"$dir/man/fathom-${command// /-}.1" || fail "manual $command"
done
fathom manual nonsense 2>"$dir/err" && fail "a manual of no command"
grep -q "there is no command 'nonsense'" "$dir/err" || fail "manual nonsense: $(cat "$dir/err")"
[ "$(find "$dir/man" -type f | wc -l)" -gt 12 ] || fail "few pages"
for page in "$dir/man/"*.1; do
    if command -v groff >/dev/null; then
        groff -ww -man -Kutf8 -Tutf8 "$page" 2>"$dir/err" >/dev/null; [ ! -s "$dir/err" ] || fail "groff: $page: $(cat "$dir/err")"
    fi
    if command -v mandoc >/dev/null; then
        mandoc -T lint -W warning "$page" >"$dir/err" 2>&1 || fail "mandoc: $page: $(cat "$dir/err")"
    fi
done
# Every option of --help stands in the page, with its meaning.
for command in serve generate 'bench engine'; do
    # shellcheck disable=SC2086
    for option in $(fathom $command --help | grep -o '^  --[a-z-]*'); do
        grep -qF -- "\\fB${option//-/\\-}\\fR" "$dir/man/fathom-${command// /-}.1" || fail "no $option in the page of $command"
    done
done
if command -v man >/dev/null && command -v col >/dev/null; then
    MANWIDTH=80 man -l "$dir/man/fathom-serve.1" 2>/dev/null | col -b | grep -q 'close idle connections after S seconds' || fail "man shows no help"
fi
echo "ok manual pages"

# ---- the page of options ----
fathom manual --format markdown >"$dir/options.md" || fail "manual --format markdown"
diff -u docs/options.md "$dir/options.md" >"$dir/diff" || fail "docs/options.md is old; 'make docs/options.md' writes it: $(head -30 "$dir/diff")"
echo "ok docs/options.md"

# ends.sh - for tests of commands: sourced, with $dir a folder for what they print.
fail() { echo "FAIL: $*" >&2; exit 1; }

ends() { # STATUS, what stderr must say ("" for nothing), command...
    want=$1 says=$2; shift 2
    rc=0
    "$@" >"$dir/out" 2>"$dir/err" || rc=$?
    [ $rc -eq "$want" ] || fail "$*: status $rc, expected $want: $(cat "$dir/err")"
    [ -z "$says" ] || grep -qF -- "$says" "$dir/err" || fail "$*: says '$(cat "$dir/err")', expected '$says'"
    [ "$want" -eq 0 ] || [ ! -s "$dir/out" ] || fail "$*: failed, yet printed $(cat "$dir/out")"
    echo "ok $want $*"
}

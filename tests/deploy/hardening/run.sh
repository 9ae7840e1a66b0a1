#!/bin/sh
# What the release binary is built and linked with, read from the binary itself. Where the compiler
# or the C library here cannot do a thing, as a program of one line shows, it is not asked for.
set -eu
cd "$(dirname "$0")/../../.."
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
. tests/lib/ends.sh
command -v readelf >/dev/null || { echo "no readelf"; exit 77; }

printf '\043include <stdio.h>\n\043include <string.h>\nint main(int n, char **v) { char b[8]; strcpy(b, v[n - 1]); return puts(b); }\n' >"$dir/one.c"
probe() { ${CC:-cc} -O2 "$@" "$dir/one.c" -o "$dir/one" 2>/dev/null; }
imports() { readelf --dyn-syms -W "$1" | grep -q " UND .*$2"; }
machine=$(readelf -h build/release/fathom | sed -n 's/ *Machine: *//p')

check() { # FILE KIND, where KIND is "program" or "plug-in"
    file=$1
    readelf -lW "$file" >"$dir/segments"
    readelf -dW "$file" >"$dir/dynamic"
    readelf -nW "$file" >"$dir/notes" 2>/dev/null
    readelf -hW "$file" | grep -q 'Type: *DYN' || fail "$file: its address is fixed"
    [ "$2" = plug-in ] || grep -q 'Flags:.* PIE' "$dir/dynamic" || fail "$file: not a position-independent executable"
    grep -q 'BIND_NOW\|Flags:.* NOW' "$dir/dynamic" || fail "$file: functions are bound late, so their table stays writable"
    grep -q GNU_RELRO "$dir/segments" || fail "$file: no read-only relocations"
    grep 'GNU_STACK' "$dir/segments" | grep -q ' RW ' || fail "$file: the stack is executable"
    ! grep LOAD "$dir/segments" | grep -q RWE || fail "$file: a segment is writable and executable"
    if probe -fstack-protector-strong && imports "$dir/one" __stack_chk_fail; then
        imports "$file" __stack_chk_fail || fail "$file: no stack protector"
    fi
    if probe -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2 && imports "$dir/one" __strcpy_chk; then
        ! imports "$file" snprintf || imports "$file" '__snprintf_chk' || fail "$file: no fortified functions"
        [ "$2" = plug-in ] || imports "$file" '__mem[a-z]*_chk' || fail "$file: copies are not fortified"
    fi
    if probe -fcf-protection=full && readelf -nW "$dir/one" | grep -q IBT; then
        [ "$2" = plug-in ] || grep -q 'IBT, SHSTK' "$dir/notes" || fail "$file: no note of indirect branch tracking and shadow stack"
    fi
    echo "ok $file"
}

check build/release/fathom program
for plugin in build/fathom-cuda.so build/fathom-mpi.so; do
    [ ! -e $plugin ] || [ Makefile -nt $plugin ] || check $plugin plug-in
done
# The linker writes the note only if the C library's own start files bear it; the code has the marks.
if [ "$machine" = "Advanced Micro Devices X86-64" ] && probe -fcf-protection=full; then
    objdump -d --no-show-raw-insn -j .text build/release/fathom | grep -c endbr64 >"$dir/marks" || :
    functions=$(readelf -sW build/release/fathom | grep -c ' FUNC ')
    [ "$(cat "$dir/marks")" -gt $((functions / 4)) ] || fail "only $(cat "$dir/marks") of $functions functions begin with endbr64"
fi
if [ -e build/san-address-undefined/fathom ]; then
    ! imports build/san-address-undefined/fathom __snprintf_chk || fail "a sanitized build is fortified, which hides what it would find"
fi
echo "hardening: ok"

#!/bin/sh
# Fails if a room includes a room that stands above it, or another room's private header.
#
# The rooms, from the ground up; each line says which rooms a room may include. A header is
# public if it stands directly in its room and its name does not end in _internal.h.
set -u
cd "$(dirname "$0")/.." || exit 2
bad=0
rooms="
base:
model: base
text: base
engine: base model
scheduler: base model engine
runtime: base model text engine scheduler
api: base model text engine scheduler
server: base model text engine scheduler runtime api
loadgen: base text
cli: base model text engine scheduler runtime api server loadgen
"
check() { # room, rooms it may include
    room=$1; shift
    for file in $(find "$room" -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh'); do
        for inc in $(sed -n 's/^[[:space:]]*#[[:space:]]*include[[:space:]]*"\([^"]*\)".*/\1/p' "$file"); do
            case $inc in */*) ;; *) continue ;; esac
            top=${inc%%/*}
            case " $room $* " in
            *" $top "*) ;;
            *) echo "$file: includes $inc, but $room may only see: $*"; bad=1 ;;
            esac
            case $inc in
            "$room"/*) ;;
            *_internal.h | */*/*) echo "$file: includes $inc, which is private to $top"; bad=1 ;;
            esac
        done
    done
}
while IFS=: read -r room below; do
    # shellcheck disable=SC2086
    [ -n "$room" ] && check "$room" $below
done <<EOF
$rooms
EOF
all=$(echo "$rooms" | sed -n 's/:.*//p')
# Each third-party library has one door, or a few.
lib() { # header pattern, rooms allowed
    pattern=$1; shift
    # shellcheck disable=SC2086
    for file in $(grep -lE "^[[:space:]]*#[[:space:]]*include[[:space:]]*<$pattern" -r $all --include='*.[ch]'); do
        case " $* " in *" ${file%%/*} "*) ;; *) echo "$file: includes <$pattern>, allowed only in: $*"; bad=1 ;; esac
    done
}
lib 'uv\.h' server loadgen
lib 'microhttpd\.h' server
lib 'curl/' loadgen
lib 'mpi\.h' engine
lib 'pcre2\.h' text
lib 'utf8proc\.h' text
lib 'pthread\.h' base model engine scheduler server
# Functions that overflow buffers or hide failures.
banned='\b(strcpy|strcat|sprintf|vsprintf|gets|atoi|atol|atof|strtok|alloca|MHD_create_post_processor)\('
# shellcheck disable=SC2086
if grep -nE "$banned" -r $all --include='*.[ch]'; then
    echo "a banned function is used above"; bad=1
fi
[ $bad -eq 0 ] && echo "layers: ok"
exit $bad

#!/bin/sh
# Fails if a folder includes what stands to its left in
#     server -> api -> scheduler -> engine -> base
# or another folder's private header. engine/cpu and engine/cuda are inside engine.
set -u
cd "$(dirname "$0")/.." || exit 2
bad=0
check() { # folder, folders it may include
    folder=$1; shift
    for file in $(find "$folder" -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh'); do
        for inc in $(sed -n 's/^[[:space:]]*#[[:space:]]*include[[:space:]]*"\([^"]*\)".*/\1/p' "$file"); do
            case $inc in */*) ;; *) continue ;; esac
            top=${inc%%/*}
            case " $folder $* " in
            *" $top "*) ;;
            *) echo "$file: includes $inc, but $folder may only see: $*"; bad=1 ;;
            esac
            case $inc in
            "$folder"/*) ;;
            "$top/$top.h") ;;
            *) echo "$file: includes $inc; only $top/$top.h is public"; bad=1 ;;
            esac
        done
    done
}
check base
check engine base
check scheduler engine base
check api scheduler engine base
check server api scheduler engine base
# The third-party libraries each have one door.
lib() { # header pattern, folders allowed
    pattern=$1; shift
    for file in $(grep -lE "^[[:space:]]*#[[:space:]]*include[[:space:]]*<$pattern" -r base engine scheduler api server --include='*.[ch]'); do
        case " $* " in *" ${file%%/*} "*) ;; *) echo "$file: includes <$pattern>, allowed only in: $*"; bad=1 ;; esac
    done
}
lib 'uv\.h' server
lib 'microhttpd\.h' server
lib 'curl/' server
lib 'pcre2\.h' engine
lib 'pthread\.h' base engine scheduler server
# Functions that have bitten others; see the style page's "Never" list.
banned='\b(strcpy|strcat|sprintf|vsprintf|gets|atoi|atol|atof|strtok|alloca|MHD_create_post_processor)\('
if grep -nE "$banned" -r base engine scheduler api server --include='*.[ch]'; then
    echo "a banned function is used above"; bad=1
fi
[ $bad -eq 0 ] && echo "layers: ok"
exit $bad

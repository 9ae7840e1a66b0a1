#!/usr/bin/env bash
# Runs a command beside busy processes and says its time and the load: do tests judge wall time?
#
#   tools/beside_load.sh [-s] N COMMAND...     for example: tools/beside_load.sh 8 make test
#
# The N loops stand in one session of their own. Where the kernel shares the processor between
# sessions (kernel.sched_autogroup_enabled), the command keeps half of it or more. With -s the loops
# share the command's session, and each of them counts as much as a process of the command.
set -u
session=setsid
[ "${1:-}" = -s ] && { session=; shift; }
case ${1:-} in
'' | *[!0-9]*) sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
n=$1; shift
[ $# -gt 0 ] || { echo "tools/beside_load.sh: no command to run" >&2; exit 2; }

# A loop ends with this script, however that ends.
loop="while kill -0 $$ 2>/dev/null; do for ((k = 0; k < 100000; k++)); do :; done; done"
$session bash -c "for ((i = 0; i < $n; i++)); do ($loop) & done; wait" &
sleep 1
start=$SECONDS
"$@"
rc=$?
echo "exit status $rc after $((SECONDS - start)) s beside $n busy processes, load $(cut -d' ' -f1-3 /proc/loadavg)"
exit $rc

#!/usr/bin/env bash
# etcdctl snapshot status ends with 0 for every file, also for none, since 3.6.
#
# Software:  etcdctl 3.5.33 and 3.6.16, from their Go modules. 3.7.3 is as 3.6.16.
# Expected:  3.6 took `status` and `restore` out of `etcdctl snapshot` (CHANGELOG-3.6; use etcdutl), so a backup job that
#            says `etcdctl snapshot save F && etcdctl snapshot status F` fails on the day of the upgrade, as an
#            unknown command does (`etcdctl nonsense` ends with 1).
# Seen:      `etcdctl snapshot status F` prints the help of `snapshot` and ends with 0, whatever F is: garbage, an empty
#            file, no file at all. `snapshot restore F` the same, restoring nothing. The job stays green for good.
# Since:     3.6.0. Looked up in v3.6.16, etcdctl/ctlv3/command/snapshot_command.go: the parent has no Run and no Args
#            of its own, so cobra takes the unknown word for an argument, shows the help, and reports no error.
# shellcheck source-path=SCRIPTDIR source=parts.sh
source "$(dirname "$0")/parts.sh"

build 3.5.33 etcdctl
build 3.6.16 etcdctl
echo "this is no snapshot" >"$work/garbage"

exit_code() {
    local code=0
    (cd "$work" && timeout 20 "$@" >"$work/words" 2>&1) || code=$?
    echo "$code"
}
old=$(exit_code "$work/3.5.33/etcdctl" snapshot status "$work/missing")
finding "3.5.33, no such file: exit $old" test "$old" != 0
old=$(exit_code "$work/3.5.33/etcdctl" snapshot status "$work/garbage")
finding "3.5.33, a file of garbage: exit $old" test "$old" != 0

for file in missing garbage; do
    for verb in status restore; do
        new=$(exit_code "$work/3.6.16/etcdctl" snapshot "$verb" "$work/$file")
        finding "3.6.16, snapshot $verb, $file: exit $new" test "$new" = 0
    done
done
finding "... and what it printed is the help" grep -q 'USAGE' "$work/words"
finding "... nothing was restored" test ! -e "$work/default.etcd"
other=$(exit_code "$work/3.6.16/etcdctl" nonsense)
finding "3.6.16, an unknown command one level up: exit $other" test "$other" != 0

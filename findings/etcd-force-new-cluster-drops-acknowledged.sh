#!/usr/bin/env bash
# --force-new-cluster on a killed leader's data: the last write that was acknowledged is gone, although the log on its disk has it.
#
# Software:  etcd 3.6.16 (from its Go modules).
# Expected:  the documented way back from a lost quorum keeps what the surviving member has on its disk, and so every write that it acknowledged itself.
# Seen:      three members, one write, acknowledged by the leader; then all are killed at once. Started with --force-new-cluster on the leader's data, the key is not
#            there. Started without it on a copy of the three data directories, the key is there: the entry was in the log.
# Why:       a member writes down how far its log is committed (raft's HardState) without syncing, and with later entries; the leader acknowledges before.
#            restartAsStandaloneNode (3.6: server/etcdserver/bootstrap.go, "discard the previously uncommitted entries") cuts the log at what is written down.
# shellcheck source-path=SCRIPTDIR source=parts.sh
source "$(dirname "$0")/parts.sh"

build 3.6.16 server
free_ports 8
etcd=$work/3.6.16/server
cluster=m0=http://127.0.0.1:${port[1]},m1=http://127.0.0.1:${port[3]},m2=http://127.0.0.1:${port[5]}

start_three() {
    for m in 0 1 2; do start "$1$m" "$etcd" "${port[2 * m]}" "${port[2 * m + 1]}" ETCD_NAME="m$m" ETCD_INITIAL_CLUSTER="$cluster"; done
    for m in 0 1 2; do within 30 healthy "${port[2 * m]}"; done
}
leads() { call "$1" maintenance/status '{}' | pick 'd["leader"] == d["header"]["member_id"]'; }
kill_all() {
    local pid
    for pid in "${pids[@]}"; do kill -KILL "$pid" || true; done
    wait 2>/dev/null || true
    pids=()
}
# value_at CLIENT_PORT: the value of the key "k" there, through the quorum.
value_at() { call "$1" kv/range '{"key":"aw=="}' | pick 'd.get("kvs", [{}])[0].get("value", "none")'; }

start_three one-
for m in 0 1 2; do
    if [[ $(leads "${port[2 * m]}") == True ]]; then at=$m; fi
done
# At once: a tenth of a second later the write would be in the database as well.
answer=$(call "${port[2 * at]}" kv/put '{"key":"aw==","value":"dg=="}')
kill_all
put=$(pick 'd["header"]["revision"]' <<<"$answer")
finding "the leader acknowledged the write at revision $put" test "$put" -ge 2
for m in 0 1 2; do cp -r "$work/one-$m" "$work/all-$m"; done
cp -r "$work/one-$at" "$work/alone"

start alone "$etcd" "${port[6]}" "${port[7]}" ETCD_NAME="m$at" ETCD_FORCE_NEW_CLUSTER=true
within 30 healthy "${port[6]}"
finding "alone, with --force-new-cluster on the leader's data, it is gone" test "$(value_at "${port[6]}")" = none
kill_all

start_three all-
finding "together, on copies of the same data, it is there" test "$(value_at "${port[2 * at]}")" = dg==

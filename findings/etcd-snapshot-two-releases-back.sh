#!/usr/bin/env bash
# A snapshot of 3.7 is refused by 3.6 and served without a word by 3.5.
#
# Software:  etcd 3.5.33, 3.6.16, 3.7.3 (server, etcdctl, etcdutl), from their Go modules.
# Expected:  etcd can be taken back by one minor release at most, and only by its downgrade procedure (etcd.io, Downgrading
#            etcd clusters). So what refuses at one release back refuses at two, as it does for a data directory.
# Seen:      the data directory of 3.7.3 is refused by both. Its snapshot, restored (here by 3.5.33's etcdutl), is refused by
#            3.6.16 ("version "3.7.0" is not supported", exit 1); 3.5.33 starts on it, serves every key, takes writes.
# Since:     3.6.0, which began to keep a storage version in the file. Looked up: 3.6 and 3.7 check it at the start
#            (server/storage/schema/schema.go, Validate); 3.5 knows no such field, and the cluster version, by which it
#            refuses a data directory, isn't in what a restore writes.
# shellcheck source-path=SCRIPTDIR source=parts.sh
source "$(dirname "$0")/parts.sh"

build 3.5.33 server etcdutl
build 3.6.16 server
build 3.7.3 server etcdctl
free_ports 2
start m1 "$work/3.7.3/server" "${port[@]}"
within 20 healthy "${port[0]}"
"$work/3.7.3/etcdctl" --endpoints "127.0.0.1:${port[0]}" put key value >/dev/null
stepped() { call "${port[0]}" maintenance/status '{}' | pick 'd.get("storageVersion")' | grep -qx 3.7.0; }
within 30 stepped
"$work/3.7.3/etcdctl" --endpoints "127.0.0.1:${port[0]}" snapshot save "$work/backup" >/dev/null 2>&1
kill "${pids[0]}"
wait "${pids[0]}" 2>/dev/null || true

# refused VERSION NAME: whether that release ends by itself with 1 on the data of NAME.
refused() {
    local code=0 copy="$2-$1"
    cp -a "$work/$2" "$work/$copy"
    free_ports 2
    start "$copy" "$work/$1/server" "${port[@]}" ETCD_NAME="$2" ETCD_INITIAL_CLUSTER="$2=http://127.0.0.1:${port[1]}"
    within 20 eval "healthy ${port[0]} || ! kill -0 ${pids[-1]}"
    if healthy "${port[0]}"; then return 1; fi
    wait "${pids[-1]}" 2>/dev/null || code=$?
    test "$code" = 1
}
served() { ! refused "$@"; }

finding "3.7.3's data directory: refused by 3.6.16" refused 3.6.16 m1
finding "3.7.3's data directory: refused by 3.5.33" refused 3.5.33 m1

"$work/3.5.33/etcdutl" snapshot restore "$work/backup" --name r1 --data-dir "$work/r1" \
    --initial-cluster r1=http://127.0.0.1:1 --initial-advertise-peer-urls http://127.0.0.1:1 >/dev/null 2>&1
finding "3.7.3's snapshot, restored: refused by 3.6.16" refused 3.6.16 r1
finding "... $(grep -o 'version [^,]*3.7.0[^,]*supported' "$work/r1-3.6.16.log" | head -1)" grep -q 'is not supported' "$work/r1-3.6.16.log"
finding "3.7.3's snapshot, restored: 3.5.33 is healthy on it" served 3.5.33 r1
value=$(call "${port[0]}" kv/range '{"key":"a2V5"}' | pick 'd["kvs"][0]["value"]' | base64 -d)
finding "... serves the key: $value" test "$value" = value
put=$(call "${port[0]}" kv/put '{"key":"aw==","value":"dg=="}' | pick 'd["header"]["revision"]')
finding "... and takes writes: revision $put" test "$put" = 3
silent() { ! grep -E '"(warn|error|fatal)"' "$work/r1-3.5.33.log" | grep -i 'version.*3\.7'; }
finding "... no warning nor error of a version in its log" silent

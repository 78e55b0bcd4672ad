#!/usr/bin/env bash
# etcdutl hashkv, a command that prints a hash, writes to the snapshot, which can't be restored after it.
#
# Software:  etcd 3.7.3 (server, etcdctl, etcdutl), from its Go modules. 3.6.16 does the same.
# Expected:  what prints a hash only reads. `etcdutl snapshot status`, its neighbour, leaves the file as it is,
#            and etcdutl's README says of hashkv no more than "prints hash of keys and values".
# Seen:      exit 0, and the file has another SHA-256 than before. `etcdutl snapshot restore` then refuses it
#            ("expected sha256 ..., got ..."): the check of a backup is what makes it useless.
# Since:     3.6.0, the first release with `etcdutl hashkv`. Looked up in v3.7.3, etcdutl/etcdutl/hashkv_command.go:
#            calculateHashKV opens the file by backend.NewDefaultBackend and mvcc.NewStore, which write, where
#            `snapshot status` opens it with bbolt's ReadOnly. Nothing of it in etcd's README or upgrade guide.
# shellcheck source-path=SCRIPTDIR source=parts.sh
source "$(dirname "$0")/parts.sh"

build 3.7.3 server etcdctl etcdutl
utl=$work/3.7.3/etcdutl
digest() { sha256sum <"$1"; }

free_ports 2
start m1 "$work/3.7.3/server" "${port[@]}"
within 20 healthy "${port[0]}"
"$work/3.7.3/etcdctl" --endpoints "127.0.0.1:${port[0]}" put key value >/dev/null
"$work/3.7.3/etcdctl" --endpoints "127.0.0.1:${port[0]}" snapshot save "$work/backup" >/dev/null 2>&1

before=$(digest "$work/backup")
"$utl" snapshot status "$work/backup" >/dev/null
finding "snapshot status leaves the file as it is" test "$(digest "$work/backup")" = "$before"
cp "$work/backup" "$work/untouched"

"$utl" hashkv "$work/backup" >/dev/null
finding "hashkv ends with 0 and has changed the file" test "$(digest "$work/backup")" != "$before"

"$utl" snapshot restore "$work/untouched" --data-dir "$work/restored" >/dev/null 2>&1
echo "seen: the copy from before is restored"
refused() { ! "$utl" snapshot restore "$work/backup" --data-dir "$work/refused" >"$work/words" 2>&1; }
finding "the file itself is refused" refused
finding "... by its own digest: $(grep -o 'expected sha256' "$work/words" || true)" grep -q 'expected sha256' "$work/words"

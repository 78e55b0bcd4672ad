#!/usr/bin/env bash
# --max-learners set on one member: members disagree on who is in the cluster, for good, and all are healthy.
#
# Software:  etcd 3.7.3, from its Go modules. 3.6.16 does the same.
# Expected:  the limit is asked of the member that is called, before anything is proposed; what Raft has committed is
#            membership on all. A linearizable member list is the same everywhere, or it fails.
# Seen:      with the limit raised to 2 on one of three (as in the middle of a rolling change of settings), a second learner
#            added there is answered 200. That member lists five, the others four, asked linearizably, and stay so.
#            /health and /readyz say that all is well. All that tells is one line in the others' logs.
# Since:     3.6.0, the first release with the flag. Looked up in v3.7.3, server/etcdserver/api/membership/cluster.go:
#            ValidateConfigurationChange counts learners against the member's own flag, and it runs again when the
#            committed entry is applied; a member that finds it too many drops the change. --help doesn't say that the flag
#            must be equal on all.
# shellcheck source-path=SCRIPTDIR source=parts.sh
source "$(dirname "$0")/parts.sh"

build 3.7.3 server
free_ports 8
cluster=m1=http://127.0.0.1:${port[1]},m2=http://127.0.0.1:${port[3]},m3=http://127.0.0.1:${port[5]}
start m1 "$work/3.7.3/server" "${port[0]}" "${port[1]}" ETCD_INITIAL_CLUSTER="$cluster" ETCD_MAX_LEARNERS=2
start m2 "$work/3.7.3/server" "${port[2]}" "${port[3]}" ETCD_INITIAL_CLUSTER="$cluster"
start m3 "$work/3.7.3/server" "${port[4]}" "${port[5]}" ETCD_INITIAL_CLUSTER="$cluster"
for client in "${port[0]}" "${port[2]}" "${port[4]}"; do within 30 healthy "$client"; done

# Until its peers have been connected for five seconds a member answers "unhealthy cluster".
added() { call "${port[0]}" cluster/member/add "{\"peerURLs\":[\"http://127.0.0.1:$1\"],\"isLearner\":true}" | grep -q '"member"'; }
within 30 added "${port[6]}"
within 30 added "${port[7]}"
echo "seen: m1 took both learners"

count() { call "$1" cluster/member/list '{"linearizable":true}' | pick 'len(d["members"])'; }
lists() { echo "$(count "${port[0]}") $(count "${port[2]}") $(count "${port[4]}")"; }
differ() { test "$(lists)" = "5 4 4"; }
finding "m1 lists five members, m2 and m3 four" eventually 10 differ
call "${port[4]}" kv/put '{"key":"aw==","value":"dg=="}' >/dev/null # Raft goes on: this is no matter of lag.
sleep 8
finding "members listed by m1, m2, m3, linearizably, 8 s and a write later: $(lists)" differ
for client in "${port[0]}" "${port[2]}" "${port[4]}"; do
    finding "/health and /readyz at port $client: well" eval "healthy $client && curl -sf http://127.0.0.1:$client/readyz >/dev/null"
done
finding "the one word of it, in the log of m2" grep -q 'too many learner members' "$work/m2.log"

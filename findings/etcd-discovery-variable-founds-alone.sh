#!/usr/bin/env bash
# A node told by ETCD_DISCOVERY to find its cluster founds one of its own on 3.7.
#
# Software:  etcd 3.6.16 and 3.7.3, from their Go modules.
# Expected:  3.7.3's own --help lists `--discovery` and says "Will be deprecated in v3.7, and be decommissioned in v3.8".
#            So it works, or it ends with an error, as it does on 3.6.16 if the discovery service doesn't answer:
#            a node that can't learn its cluster mustn't come up.
# Seen:      3.7.3 reports an unrecognized variable at level warn, founds a cluster of one under its own name, and
#            is healthy within a second. Every node of a fleet does so: as many clusters as nodes, all green, all
#            taking writes. The same setting as a flag is refused ("flag provided but not defined").
# Since:     3.7.0. Looked up in v3.7.3: server/etcdmain/help.go still has the flag, server/embed/config.go no longer does;
#            an ETCD_ variable without a flag is only a warning (pkg/flags/flag.go).
# shellcheck source-path=SCRIPTDIR source=parts.sh
source "$(dirname "$0")/parts.sh"

build 3.6.16 server
build 3.7.3 server
free_ports 5
discovery=http://127.0.0.1:${port[4]}/0123456789abcdef # Nobody listens there: the service is down.

start old "$work/3.6.16/server" "${port[0]}" "${port[1]}" ETCD_DISCOVERY="$discovery"
start new "$work/3.7.3/server" "${port[2]}" "${port[3]}" ETCD_DISCOVERY="$discovery"

finding "3.7.3 is healthy without having found anybody" eventually 20 healthy "${port[2]}"
members=$(call "${port[2]}" cluster/member/list '{}' | pick 'len(d["members"])')
finding "... its cluster has $members member" test "$members" = 1
call "${port[2]}" kv/put '{"key":"aw==","value":"dg=="}' | pick 'd["header"]["revision"]' >"$work/revision"
finding "... and takes writes: revision $(cat "$work/revision")" test "$(cat "$work/revision")" -ge 2
word=$(grep ETCD_DISCOVERY "$work/new.log" | pick 'd["level"] + ": " + d["msg"]')
finding "all that it says of the variable is \"$word\"" test "$word" = "warn: unrecognized environment variable"

sleep 3
still_alone() { ! healthy "${port[0]}"; }
finding "3.6.16, told the same at the same time, serves nobody" still_alone
# The help first into a file: grep -q would close the pipe early.
"$work/3.7.3/server" --help >"$work/help" 2>&1 || true
finding "3.7.3's help: $(grep -A1 -e '--discovery ' "$work/help" | tail -1 | xargs)" grep -q 'decommissioned in v3.8' "$work/help"
flag_refused() { ! "$work/3.7.3/server" --discovery "$discovery" >"$work/flag" 2>&1 && grep -q 'not defined: -discovery' "$work/flag"; }
finding "the same as a flag is refused" flag_refused

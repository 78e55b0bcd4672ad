#!/bin/bash
# A peer of the benchmark: the workflow of the widely copied etcd-aws-cluster container, written anew from its document. The Auto
# Scaling group of this instance and its members' addresses, by the AWS CLI; each is asked for its v2 member list. No answer, or
# one that lists this instance: a new cluster of the whole group. Else: remove who isn't in the group, add this one, and join.
set -u
meta() {
    token=$(curl -sf -m 2 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$AWS_EC2_METADATA_SERVICE_ENDPOINT/latest/api/token")
    curl -sf -m 2 -H "X-aws-ec2-metadata-token: $token" "$AWS_EC2_METADATA_SERVICE_ENDPOINT/latest/meta-data/$1"
}

id=$(meta instance-id) && me=$(meta local-ipv4) && region=$(meta placement/region) || exit 1
export AWS_DEFAULT_REGION=$region AWS_DEFAULT_OUTPUT=text
group=$("$AWS" autoscaling describe-auto-scaling-instances --instance-ids "$id" \
    --query 'AutoScalingInstances[].AutoScalingGroupName') && [ -n "$group" ] || exit 1
ids=$("$AWS" autoscaling describe-auto-scaling-groups --auto-scaling-group-names "$group" \
    --query "AutoScalingGroups[].Instances[?LifecycleState=='InService'].InstanceId") && [ -n "$ids" ] || exit 1
# shellcheck disable=SC2086 # the ids are words
machines=$("$AWS" ec2 describe-instances --instance-ids $ids --query 'Reservations[].Instances[].[InstanceId, PrivateIpAddress]') || exit 1

members='' peer=''
while read -r _ address; do
    [ "$address" = "$me" ] && continue
    if members=$(curl -sf -m 2 "http://$address:2379/v2/members"); then
        peer=$address
        break
    fi
done <<<"$machines"

if [ -z "$peer" ] || jq -e --arg id "$id" 'any(.members[]; .name == $id)' <<<"$members" >/dev/null; then
    state=new
    list=$(awk '{ printf "%s%s=http://%s:2380", (NR > 1 ? "," : ""), $1, $2 }' <<<"$machines")
else
    state=existing
    while read -r dead name; do
        case " $ids " in *"$name"*) continue ;; esac
        curl -sf -m 5 -X DELETE "http://$peer:2379/v2/members/$dead" || exit 1
    done < <(jq -r '.members[] | select(.name != "") | "\(.id) \(.name)"' <<<"$members")
    list=$(curl -sf -m 2 "http://$peer:2379/v2/members" |
        jq -r '[.members[] | select(.name != "") | "\(.name)=\(.peerURLs[0])"] | join(",")')
    code=$(curl -s -m 5 -o /dev/null -w '%{http_code}' -X POST -H 'Content-Type: application/json' \
        -d "{\"peerURLs\": [\"http://$me:2380\"], \"name\": \"$id\"}" "http://$peer:2379/v2/members")
    [ "$code" = 201 ] || [ "$code" = 409 ] || exit 1
    list="$list,$id=http://$me:2380"
fi

exec "$ED_HOME/bin/etcd" --enable-v2 --name "$id" --data-dir "$ED_DATA" --wal-dir "$ED_WAL/wal" \
    --listen-client-urls "http://$me:2379" --advertise-client-urls "http://$me:2379" \
    --listen-peer-urls "http://$me:2380" --initial-advertise-peer-urls "http://$me:2380" \
    --initial-cluster "$list" --initial-cluster-state $state

#!/bin/bash
# A peer of the benchmark: the seed's algorithm, written anew from its document. The instances with the tag, by the AWS CLI; who of
# them serves etcd's v2 API; its list to join, or all instances as a new cluster. It waits until two instances are there, and
# cleans members that EC2 no longer lists. (The document's CLI runs in a container of its own; here it is run directly, which favours it.)
set -u
add_ok=201 delete_ok=204
port=2379 peer_port=2380
meta() {
    token=$(curl -sf -m 2 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$AWS_EC2_METADATA_SERVICE_ENDPOINT/latest/api/token")
    curl -sf -m 2 -H "X-aws-ec2-metadata-token: $token" "$AWS_EC2_METADATA_SERVICE_ENDPOINT/latest/meta-data/$1"
}
ec2() { "$AWS" --region "$(meta placement/region)" --output text ec2 "$@"; }

me=$(meta local-ipv4) || exit 1
while :; do
    ec2 describe-tags --filters Name=resource-type,Values=instance Name=key,Values=etcd >/dev/null || exit 1
    ids=$(ec2 describe-tags --filters Name=resource-type,Values=instance Name=key,Values=etcd Name=value,Values=1 \
        --query 'Tags[].ResourceId') || exit 1
    addresses=()
    for id in $ids; do
        address=$(ec2 describe-instances --instance-ids "$id" --query 'Reservations[].Instances[].PrivateIpAddress') || exit 1
        [ -n "$address" ] && [ "$address" != None ] && addresses+=("$address")
    done
    [ "${#addresses[@]}" -ge 2 ] && break
    sleep 5
done

state=new list=
for address in "${addresses[@]}"; do
    list="$list${list:+,}$address=http://$address:$peer_port"
    [ "$address" = "$me" ] && continue
    found=$(curl -sf -m 2 "http://$address:$port/v2/members") && state=existing peer=$address members=$found
done

if [ $state = existing ]; then
    # Members that EC2 doesn't list are removed.
    while read -r id name url; do
        case " ${addresses[*]} " in *" $name "*) continue ;; esac
        [ "$url" = "http://$me:$peer_port" ] && continue
        code=$(curl -s -m 5 -o /dev/null -w '%{http_code}' -X DELETE "http://$peer:$port/v2/members/$id")
        [ "$code" = $delete_ok ] || exit 1
    done < <(jq -r '.members[] | select(.name != "") | "\(.id) \(.name) \(.peerURLs[0])"' <<<"$members")
    if ! jq -e --arg url "http://$me:$peer_port" 'any(.members[]; .peerURLs[0] == $url)' <<<"$members" >/dev/null; then
        code=$(curl -s -m 5 -o /dev/null -w '%{http_code}' -X POST -H 'Content-Type: application/json' \
            -d "{\"peerURLs\": [\"http://$me:$peer_port\"], \"name\": \"$me\"}" "http://$peer:$port/v2/members")
        [ "$code" = $add_ok ] || exit 1
    elif jq -e --arg me "$me" 'all(.members[]; .name != $me)' <<<"$members" >/dev/null; then
        state=new # listed from the start, and not yet started
    fi
    list=$(curl -sf -m 2 "http://$peer:$port/v2/members" |
        jq -r '[.members[] | "\(.peerURLs[0] | sub("^http://"; "") | sub(":[0-9]+$"; ""))=\(.peerURLs[0])"] | join(",")')
fi

exec "$ED_HOME/bin/etcd" --enable-v2 --name "$me" --data-dir "$ED_DATA" --wal-dir "$ED_WAL/wal" \
    --listen-client-urls "http://$me:$port" --advertise-client-urls "http://$me:$port" \
    --listen-peer-urls "http://$me:$peer_port" --initial-advertise-peer-urls "http://$me:$peer_port" \
    --initial-cluster "$list" --initial-cluster-state $state

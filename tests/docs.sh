#!/usr/bin/env bash
# Holds the book in docs/ to its word: tests/docs.sh [PAGE...], all pages if none is named.
#
# Every `sh` block of a page is run as it stands, in order, in an empty directory with the binary on PATH; what a page quotes
# must be said; links resolve; what is generated is up to date; and the metrics in the book, the alerts and the dashboard
# are those that the service shows. HOOKSTREAM_BINARY names another binary.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
target=${CARGO_TARGET_DIR:-$root/target}
export HOOKSTREAM_BINARY=${HOOKSTREAM_BINARY:-$target/release/hookstream}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() {
    echo "tests/docs.sh: $*" >&2
    exit 1
}

# need COMMAND PACKAGE: installs a Debian package unless the command is there.
need() {
    command -v "$1" >/dev/null && return
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        fail "$1 is missing: install it (on Debian: apt-get install $2)"
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$2"
}

# isolated COMMAND...: runs a command that uses fixed ports, and ends all that it started. In namespaces of its own where the
# system lets us make them, so that nobody else's ports matter.
isolated() {
    local own=(unshare --net --pid --fork --kill-child)
    [ "$(id -u)" -eq 0 ] || own+=(--map-root-user)
    if "${own[@]}" ip link set lo up 2>/dev/null; then
        "${own[@]}" sh -c 'ip link set lo up && exec timeout --kill-after=5 300 "$@"' sh "$@"
        return
    fi
    for port in 8080 50051 9090 443; do
        if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            fail "port $port is taken: the pages' commands need it"
        fi
    done
    local status=0
    setsid timeout --kill-after=5 300 "$@" &
    wait $! || status=$?
    kill -- -$! 2>/dev/null || true
    return $status
}

# run_page PAGE
run_page() {
    local page=$1 directory=$work/$1
    grep -q '^```sh$' "docs/$page" || return 0
    mkdir -p "$directory"
    ln -s "$target/docs-node/node_modules" "$directory/node_modules"
    "$python" tests/docs.py page "docs/$page" "$directory"
    if ! (cd "$directory" && isolated bash commands.sh) >"$directory.output" 2>&1; then
        tail -n 40 "$directory.output" >&2
        fail "the commands of docs/$page do not run"
    fi
    "$python" tests/docs.py output "docs/$page" "$directory.output" || {
        cp "$directory.output" "$target/docs-output"
        fail "docs/$page quotes what is not said; what is: $target/docs-output"
    }
    echo "docs/$page: its commands do what it says"
}

[ -x "$HOOKSTREAM_BINARY" ] || fail "$HOOKSTREAM_BINARY is missing: build it, or name one in HOOKSTREAM_BINARY"
need curl curl
need ip iproute2
need openssl openssl
need nginx nginx-light
need npm npm
need promtool prometheus
tests/clients/python/run --install-only
python=$target/python-client-venv/bin/python
mkdir -p "$target/docs-node"
if ! cmp -s tests/clients/node/package-lock.json "$target/docs-node/installed.json"; then
    cp tests/clients/node/package.json tests/clients/node/package-lock.json tests/clients/node/.npmrc "$target/docs-node/"
    npm install --prefix "$target/docs-node" --ignore-scripts --no-audit --no-fund --loglevel=error
    cp tests/clients/node/package-lock.json "$target/docs-node/installed.json"
fi

# The pages call the binary, Python and Node by their names, and the checkout $CHECKOUT.
mkdir "$work/bin"
ln -s "$HOOKSTREAM_BINARY" "$work/bin/hookstream"
export PATH="$work/bin:$target/python-client-venv/bin:$PATH" CHECKOUT=$root PYTHONDONTWRITEBYTECODE=1
export -n HOOKSTREAM_BINARY

if [ $# -eq 0 ]; then
    HOOKSTREAM_BINARY=$HOOKSTREAM_BINARY docs/generate/run --check
    "$python" tests/docs.py links
    promtool check rules deploy/alerts.yaml
    promtool test rules deploy/alerts_test.yaml
    isolated bash tests/docs-metrics.sh "$work" >"$work/metrics.output" 2>&1 || {
        tail -n 20 "$work/metrics.output" >&2
        fail "not every metric could be had"
    }
    "$python" tests/docs.py metrics "$work/metrics"
    set -- docs/*.md
fi
for page in "$@"; do
    run_page "$(basename "$page")"
done
echo "the book is true"

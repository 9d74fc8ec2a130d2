#!/usr/bin/env bash
# Runs what the README tells its readers to run: every `sh` block in order, in one shell, as it stands, in an empty
# directory; then the Python block against the service that the shell left running.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
target=${CARGO_TARGET_DIR:-$root/target}
work=$(mktemp -d)
finish() {
    if [ -e "$work/serve.pid" ]; then
        kill "$(cat "$work/serve.pid")" 2>/dev/null || true
    fi
    rm -rf "$work"
}
trap finish EXIT

# block LANGUAGE: the text of all blocks of a language.
block() {
    awk -v fence="\`\`\`$1" '$0 == fence { on = 1; next } $0 == "```" { on = 0 } on' README.md
}

for port in 8080 50051 9090; do
    if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
        echo "port $port is taken: the README's commands need it" >&2
        exit 1
    fi
done

export CARGO_INSTALL_ROOT=$target/readme CARGO_TARGET_DIR=$target PATH="$target/readme/bin:$PATH"
# A reader installs in the checkout.
{
    echo 'set -euxo pipefail'
    block sh | sed \
        -e "s|^cargo install .*|(cd '$root' \&\& &)|" \
        -e 's|^hookstream serve &$|hookstream serve >serve.log 2>\&1 \& echo $! >serve.pid|'
} >"$work/commands.sh"
(cd "$work" && timeout 900 bash commands.sh) >"$work/output"
grep -q '"typeName":"avatar_video.fail"' "$work/output"
grep -q '31 events, each arrived once.' "$work/output"
grep -q '^avatar_video.fail for order_7$' "$work/output"
grep -q '^hookstream_deliveries_total{outcome="stored"} 2$' "$work/output"

tests/clients/python/run --install-only
python=$target/python-client-venv/bin/python
"$python" -m grpc_tools.protoc -I proto --python_out="$work" --grpc_python_out="$work" proto/hookstream/v1/*.proto
block python >"$work/backend.py"
(cd "$work" && timeout 60 "$python" backend.py) | tee "$work/backend.output"
grep -q '^rendered vid_' "$work/backend.output"
grep -q '^failed vid_1 rendering timed out$' "$work/backend.output"
if grep -q '^billed ' "$work/backend.output"; then
    echo "an acknowledged event was handed out again" >&2
    exit 1
fi

timeout 60 "$target/readme/bin/hookstream" dev --exit --ingress-listen 127.0.0.1:0 --grpc-listen 127.0.0.1:0 \
    --admin-listen 127.0.0.1:0 | grep '30 of 30 arrived, in order, once.'
echo "the README's commands work"

#!/usr/bin/env bash
# Runs what the README tells its readers to run: every `sh` block in order in one shell, then the Python block against the
# service that the shell left running. Owns nothing else: what the commands should print is claimed by other tests.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
target=${CARGO_TARGET_DIR:-$PWD/target}
work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$work"' EXIT

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
ready='for _ in $(seq 100); do curl -sf http://127.0.0.1:9090/readyz >/dev/null && break; sleep 0.1; done'
{
    echo 'set -euxo pipefail'
    # The reader sees the service come up before typing on.
    block sh | sed "s|^hookstream serve &\$|(cd '$work' \&\& exec hookstream serve) >'$work/serve.log' \& $ready|" |
        sed "s|demo\\.\\(json\\|secret\\)|'$work'/demo.\\1|g; s|open(\"'$work'/demo.json\")|open(\"$work/demo.json\")|"
} >"$work/commands.sh"
# shellcheck source=/dev/null
source "$work/commands.sh" | tee "$work/output"
set +x
grep -q '"typeName":"avatar_video.fail"' "$work/output"
grep -q '^hookstream_deliveries_total{outcome="stored"} 2$' "$work/output"

tests/clients/python/run --install-only
python=$target/python-client-venv/bin/python
"$python" -m grpc_tools.protoc -I proto --python_out="$work" --grpc_python_out="$work" proto/hookstream/v1/*.proto
block python >"$work/backend.py"
(cd "$work" && "$python" backend.py) | tee "$work/backend.output"
grep -q '^rendered vid_' "$work/backend.output"
grep -q '^failed vid_1 rendering timed out$' "$work/backend.output"

timeout 60 "$target/readme/bin/hookstream" dev --exit --ingress-listen 127.0.0.1:0 --grpc-listen 127.0.0.1:0 \
    --admin-listen 127.0.0.1:0 | grep '30 of 30 arrived, in order, once.'
echo "the README's commands work"

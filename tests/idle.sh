#!/usr/bin/env bash
# Holds streams open through nginx on which nothing happens, with the configuration of docs/proxy.md, and then looks whether the
# event that comes is seen at once: tests/idle.sh [MINUTES], 3 if not given. One stream is gRPC, one gRPC-Web as a browser's.
# HOOKSTREAM_BINARY names another binary.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
target=${CARGO_TARGET_DIR:-$root/target}
binary=${HOOKSTREAM_BINARY:-$target/release/hookstream}
minutes=${1:-3}

fail() {
    echo "tests/idle.sh: $*" >&2
    exit 1
}

# Everything below runs where its ports are nobody else's.
if [ -z "${HOOKSTREAM_IDLE_DIRECTORY:-}" ]; then
    [ -x "$binary" ] || fail "$binary is missing: build it, or name one in HOOKSTREAM_BINARY"
    command -v nginx >/dev/null || fail "nginx is missing (on Debian: apt-get install nginx-light)"
    HOOKSTREAM_IDLE_DIRECTORY=$(mktemp -d)
    export HOOKSTREAM_IDLE_DIRECTORY
    trap 'rm -rf "$HOOKSTREAM_IDLE_DIRECTORY"' EXIT
    for file in hookstream.conf nginx.conf; do
        # A block that begins with a comment that names it.
        awk -v name="# $file" '/^```/ { on = 0; first = 1; next } first { on = $0 == name; first = 0 } on' docs/proxy.md \
            >"$HOOKSTREAM_IDLE_DIRECTORY/$file"
    done
    own=(unshare --net --pid --fork --kill-child)
    [ "$(id -u)" -eq 0 ] || own+=(--map-root-user)
    "${own[@]}" sh -c 'ip link set lo up && exec timeout --kill-after=5 "$1" bash "$2" "$3"' sh \
        $((minutes * 60 + 60)) tests/idle.sh "$minutes"
    exit
fi

cd "$HOOKSTREAM_IDLE_DIRECTORY"
sites=hooks.example.com,grpc.example.com,admin.example.com
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -keyout hookstream.key -out hookstream.crt \
    -subj /CN=example.com -addext "subjectAltName=DNS:${sites//,/,DNS:}" 2>/dev/null
(umask 077 && "$binary" token generate >admin.token)
"$binary" serve --trusted-proxies 127.0.0.1 --admin-token-file admin.token >hookstream.log &
until curl -sf http://127.0.0.1:9090/readyz >/dev/null; do sleep 0.1; done
nginx -p "$PWD" -c nginx.conf
"$binary" endpoint create demo --json --token-file admin.token >demo.json
python3 -c 'import json; print(json.load(open("demo.json"))["create"]["secret"])' >demo.secret

# One that has its name resolved to this machine.
through_nginx() {
    curl --silent --show-error --no-buffer --cacert hookstream.crt --resolve "$1:443:127.0.0.1" "${@:2}"
}
printf 'header = "authorization: Bearer %s"\n' "$(cat admin.token)" >curl.token
chmod 600 curl.token
# Both requests are empty messages: every event from now on.
printf '\0\0\0\0\0' >empty
stream=/hookstream.v1.HookstreamService/SubscribeEvents
through_nginx grpc.example.com --config curl.token --http2 --header 'te: trailers' \
    --header 'content-type: application/grpc' --data-binary @empty "https://grpc.example.com$stream" >grpc.frames &
grpc=$!
through_nginx admin.example.com --config curl.token --header 'content-type: application/grpc-web+proto' \
    --data-binary @empty "https://admin.example.com$stream" >web.frames &
web=$!

sleep $((minutes * 60))
for stream in $grpc $web; do
    kill -0 "$stream" || fail "a stream did not last $minutes minutes"
done
! grep -q avatar_video.success grpc.frames web.frames || fail "an event came that nobody delivered"
signature=$(printf '{"event_type":"avatar_video.success","event_data":{"video_id":"vid_1"}}' | tee body |
    openssl dgst -sha256 -hmac "$(cat demo.secret)" -hex | sed 's/.* //')
through_nginx hooks.example.com --fail --output answer --header "signature: $signature" --header 'content-type: application/json' \
    --data-binary @body https://hooks.example.com/webhooks/demo
for frames in grpc.frames web.frames; do
    for _ in $(seq 50); do
        if grep -q avatar_video.success "$frames"; then
            continue 2
        fi
        sleep 0.1
    done
    fail "$frames: the event did not come within 5 s of $minutes silent minutes"
done
echo "two streams through nginx were silent for $minutes minutes and then had their event"

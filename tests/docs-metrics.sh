#!/usr/bin/env bash
# Runs a service that has every metric (HeyGen's side, played here; TLS; a subscription), and writes what its /metrics shows
# into DIRECTORY/metrics: tests/docs-metrics.sh DIRECTORY.
set -euo pipefail

cd "$1"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -keyout metrics.key -out metrics.crt \
    -subj /CN=localhost -addext 'subjectAltName=IP:127.0.0.1' 2>/dev/null
(umask 077 && echo sk_test >heygen.key)
hookstream serve --data-dir metrics-data --heygen-api-key-file heygen.key --heygen-api-base http://127.0.0.1:1 \
    --admin-tls-certificate-file metrics.crt --admin-tls-key-file metrics.key >metrics.log &
until curl -sf --cacert metrics.crt https://127.0.0.1:9090/readyz; do sleep 0.1; done
hookstream endpoint create demo --registration local --json >metrics.json
python3 -c 'import json; print(json.load(open("metrics.json"))["create"]["secret"])' >metrics.secret
hookstream deliver avatar_video.success --url http://127.0.0.1:8080/webhooks/demo --secret-file metrics.secret
hookstream subscription create billing --from-start
hookstream tail --subscription billing --count 1
until curl -sf --cacert metrics.crt https://127.0.0.1:9090/metrics >metrics && grep -q '^hookstream_endpoints{' metrics; do
    sleep 0.1
done

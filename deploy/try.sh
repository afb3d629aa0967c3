#!/bin/sh
# Where there is no docker: the steps of deploy/Dockerfile in a fresh folder, and what they make asked for a picture.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
for each in $(sed -n 's/^COPY \([^-].*\) \.\/.*/\1/p' "$root/deploy/Dockerfile"); do cp -r "$root/$each" "$place/"; done
cd "$place"
sed -n "s|^RUN \(.*\)|\1|p" "$root/deploy/Dockerfile" | grep /venv | sed "s|/venv|$place/venv|g" | while read -r step; do
    echo "+ $step"
    eval "${step#RUN }" >/dev/null
done
port=7861
TENSHOT_API_KEY=0123456789abcdef TENSHOT_CACHE=$place/cache venv/bin/tenshot serve pocket --host 0.0.0.0 --port $port &
server=$!
check=$(sed -n "s/.*CMD \[\"python\", \"-c\", \"\(.*\)\"\]/\1/p" "$root/deploy/Dockerfile" | sed "s/7860/$port/")
tries=0
until venv/bin/python -c "$check" 2>/dev/null; do
    tries=$((tries + 1))
    [ $tries -lt 300 ] || exit 1
    sleep 2
done
curl -sf "http://127.0.0.1:$port/sdapi/v1/txt2img" -u me:0123456789abcdef -H "Content-Type: application/json" \
    -d '{"prompt": "a cat", "steps": 2}' | grep -q '"images"'
kill -INT $server
wait $server
echo "the steps work"

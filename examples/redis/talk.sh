#!/bin/sh
# Talk to the redis server of the same pod over localhost, then stop it, so that the pod ends.
#   talk [hold]   with `hold`, wait until somebody runs: redis-cli lpush stop now
set -eu

tries=0
until [ "$(redis-cli ping 2>/dev/null)" = PONG ]; do
    tries=$((tries + 1))
    [ "$tries" -lt 100 ] || { echo "the server does not answer"; exit 1; }
    sleep 0.1
done

say() { answer=$(redis-cli "$@"); echo "$* -> $answer"; }
say ping
say set greeting "hello from the next app"
say get greeting
[ "$answer" = "hello from the next app" ] || { echo "that is not what was set"; exit 1; }
say incr visits
if [ "${1:-}" = hold ]; then
    echo "waiting for a word on the list \"stop\""
    say blpop stop 60
fi
redis-cli shutdown nosave >/dev/null 2>&1 || true
echo "server stopped, done"

#!/bin/sh
# Waits until every worker of this group runs, in the leader's init container: no probe counts that time.
set -eu
trap 'exit 143' TERM
self=$(hostname)
# Of the clock that nobody sets.
seconds() {
    read -r uptime _ </proc/uptime
    echo "${uptime%%.*}"
}
deadline=$(($(seconds) + 6778))
worker=1
while [ "$worker" -le 1 ]; do
    until /opt/tools/kubectl exec "$self-$worker" --container trtllm-serve -- true 2>/dev/null; do
        if [ "$(seconds)" -gt "$deadline" ]; then
            echo "leader: pod $self-$worker does not run after 6778 s" >&2
            exit 1
        fi
        sleep 2
    done
    worker=$((worker + 1))
done

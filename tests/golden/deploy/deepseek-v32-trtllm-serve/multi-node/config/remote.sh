#!/bin/sh
# Open MPI's remote shell: HOST COMMAND... becomes `kubectl exec` into the pod of that name.
set -eu
pod=$1
shift
exec /opt/tools/kubectl exec "$pod" --container trtllm-serve -- /bin/sh -c "$*"

#!/bin/sh
# Starts all ranks of this group; its workers run already.
set -eu
self=$(hostname)
hosts="$self:8"
worker=1
while [ "$worker" -le 1 ]; do
    hosts="$hosts,$self-$worker:8"
    worker=$((worker + 1))
done
# A config map's files are not executable, and this file system may be read-only.
printf '#!/bin/sh\nexec /bin/sh /etc/tpforge/remote.sh "$@"\n' >/tmp/remote
chmod 700 /tmp/remote
exec python3 /etc/tpforge/launch.py --grace 600 mpirun --host "$hosts" --mca plm_rsh_agent /tmp/remote --mca plm_rsh_no_tree_spawn 1 \
  --allow-run-as-root \
  -n 16 \
  -x LD_LIBRARY_PATH trtllm-llmapi-launch trtllm-serve serve /srv/engines/DeepSeek-V3.2-tp16-pytorch-abababababab/model \
  --host 0.0.0.0 \
  --port 8000 \
  --extra_llm_api_options /etc/tpforge/llm.yaml \
  --served_model_name DeepSeek-V3.2-tp16-pytorch

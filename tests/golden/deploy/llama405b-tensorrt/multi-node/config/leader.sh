#!/bin/sh
# Waits until every worker of this group runs, then starts all ranks.
set -eu
# Process 1 is deaf to a signal that it does not name.
trap 'exit 143' TERM
self=$(hostname)
hosts="$self:8"
worker=1
deadline=$(($(date +%s) + 3367))
while [ "$worker" -le 1 ]; do
    until /opt/tools/kubectl exec "$self-$worker" --container triton -- true 2>/dev/null; do
        if [ "$(date +%s)" -gt "$deadline" ]; then
            echo "leader: pod $self-$worker does not run after 3367 s" >&2
            exit 1
        fi
        sleep 2
    done
    hosts="$hosts,$self-$worker:8"
    worker=$((worker + 1))
done
# A config map's files are not executable, and this file system may be read-only.
printf '#!/bin/sh\nexec /bin/sh /etc/tpforge/remote.sh "$@"\n' >/tmp/remote
chmod 700 /tmp/remote
exec python3 /etc/tpforge/launch.py --grace 328 mpirun --host "$hosts" --mca plm_rsh_agent /tmp/remote --mca plm_rsh_no_tree_spawn 1 \
  --allow-run-as-root \
  -n 1 /opt/tritonserver/bin/tritonserver \
  --model-repository=/srv/tpforge/repository \
  --http-port=8000 \
  --grpc-port=8001 \
  --metrics-port=8002 \
  --metrics-config=histogram_latencies=true \
  --exit-timeout-secs=328 \
  --disable-auto-complete-config \
  --backend-config=python,shm-region-prefix-name=prefix0_ \
  : -n 1 /opt/tritonserver/bin/tritonserver \
  --model-repository=/srv/tpforge/repository \
  --http-port=8000 \
  --grpc-port=8001 \
  --metrics-port=8002 \
  --model-control-mode=explicit \
  --load-model=tensorrt_llm \
  --disable-auto-complete-config \
  --backend-config=python,shm-region-prefix-name=prefix1_ \
  : -n 1 /opt/tritonserver/bin/tritonserver \
  --model-repository=/srv/tpforge/repository \
  --http-port=8000 \
  --grpc-port=8001 \
  --metrics-port=8002 \
  --model-control-mode=explicit \
  --load-model=tensorrt_llm \
  --disable-auto-complete-config \
  --backend-config=python,shm-region-prefix-name=prefix2_ \
  : -n 1 /opt/tritonserver/bin/tritonserver \
  --model-repository=/srv/tpforge/repository \
  --http-port=8000 \
  --grpc-port=8001 \
  --metrics-port=8002 \
  --model-control-mode=explicit \
  --load-model=tensorrt_llm \
  --disable-auto-complete-config \
  --backend-config=python,shm-region-prefix-name=prefix3_ \
  : -n 1 /opt/tritonserver/bin/tritonserver \
  --model-repository=/srv/tpforge/repository \
  --http-port=8000 \
  --grpc-port=8001 \
  --metrics-port=8002 \
  --model-control-mode=explicit \
  --load-model=tensorrt_llm \
  --disable-auto-complete-config \
  --backend-config=python,shm-region-prefix-name=prefix4_ \
  : -n 1 /opt/tritonserver/bin/tritonserver \
  --model-repository=/srv/tpforge/repository \
  --http-port=8000 \
  --grpc-port=8001 \
  --metrics-port=8002 \
  --model-control-mode=explicit \
  --load-model=tensorrt_llm \
  --disable-auto-complete-config \
  --backend-config=python,shm-region-prefix-name=prefix5_ \
  : -n 1 /opt/tritonserver/bin/tritonserver \
  --model-repository=/srv/tpforge/repository \
  --http-port=8000 \
  --grpc-port=8001 \
  --metrics-port=8002 \
  --model-control-mode=explicit \
  --load-model=tensorrt_llm \
  --disable-auto-complete-config \
  --backend-config=python,shm-region-prefix-name=prefix6_ \
  : -n 1 /opt/tritonserver/bin/tritonserver \
  --model-repository=/srv/tpforge/repository \
  --http-port=8000 \
  --grpc-port=8001 \
  --metrics-port=8002 \
  --model-control-mode=explicit \
  --load-model=tensorrt_llm \
  --disable-auto-complete-config \
  --backend-config=python,shm-region-prefix-name=prefix7_ \
  : -n 1 /opt/tritonserver/bin/tritonserver \
  --model-repository=/srv/tpforge/repository \
  --http-port=8000 \
  --grpc-port=8001 \
  --metrics-port=8002 \
  --model-control-mode=explicit \
  --load-model=tensorrt_llm \
  --disable-auto-complete-config \
  --backend-config=python,shm-region-prefix-name=prefix8_ \
  : -n 1 /opt/tritonserver/bin/tritonserver \
  --model-repository=/srv/tpforge/repository \
  --http-port=8000 \
  --grpc-port=8001 \
  --metrics-port=8002 \
  --model-control-mode=explicit \
  --load-model=tensorrt_llm \
  --disable-auto-complete-config \
  --backend-config=python,shm-region-prefix-name=prefix9_ \
  : -n 1 /opt/tritonserver/bin/tritonserver \
  --model-repository=/srv/tpforge/repository \
  --http-port=8000 \
  --grpc-port=8001 \
  --metrics-port=8002 \
  --model-control-mode=explicit \
  --load-model=tensorrt_llm \
  --disable-auto-complete-config \
  --backend-config=python,shm-region-prefix-name=prefix10_ \
  : -n 1 /opt/tritonserver/bin/tritonserver \
  --model-repository=/srv/tpforge/repository \
  --http-port=8000 \
  --grpc-port=8001 \
  --metrics-port=8002 \
  --model-control-mode=explicit \
  --load-model=tensorrt_llm \
  --disable-auto-complete-config \
  --backend-config=python,shm-region-prefix-name=prefix11_ \
  : -n 1 /opt/tritonserver/bin/tritonserver \
  --model-repository=/srv/tpforge/repository \
  --http-port=8000 \
  --grpc-port=8001 \
  --metrics-port=8002 \
  --model-control-mode=explicit \
  --load-model=tensorrt_llm \
  --disable-auto-complete-config \
  --backend-config=python,shm-region-prefix-name=prefix12_ \
  : -n 1 /opt/tritonserver/bin/tritonserver \
  --model-repository=/srv/tpforge/repository \
  --http-port=8000 \
  --grpc-port=8001 \
  --metrics-port=8002 \
  --model-control-mode=explicit \
  --load-model=tensorrt_llm \
  --disable-auto-complete-config \
  --backend-config=python,shm-region-prefix-name=prefix13_ \
  : -n 1 /opt/tritonserver/bin/tritonserver \
  --model-repository=/srv/tpforge/repository \
  --http-port=8000 \
  --grpc-port=8001 \
  --metrics-port=8002 \
  --model-control-mode=explicit \
  --load-model=tensorrt_llm \
  --disable-auto-complete-config \
  --backend-config=python,shm-region-prefix-name=prefix14_ \
  : -n 1 /opt/tritonserver/bin/tritonserver \
  --model-repository=/srv/tpforge/repository \
  --http-port=8000 \
  --grpc-port=8001 \
  --metrics-port=8002 \
  --model-control-mode=explicit \
  --load-model=tensorrt_llm \
  --disable-auto-complete-config \
  --backend-config=python,shm-region-prefix-name=prefix15_

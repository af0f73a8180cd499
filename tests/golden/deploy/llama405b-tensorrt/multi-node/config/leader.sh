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
  --exit-timeout-secs=328 \
  --disable-auto-complete-config \
  --backend-config=python,shm-region-prefix-name=prefix1_ \
  : -n 1 /opt/tritonserver/bin/tritonserver \
  --model-repository=/srv/tpforge/repository \
  --http-port=8000 \
  --grpc-port=8001 \
  --metrics-port=8002 \
  --model-control-mode=explicit \
  --load-model=tensorrt_llm \
  --exit-timeout-secs=328 \
  --disable-auto-complete-config \
  --backend-config=python,shm-region-prefix-name=prefix2_ \
  : -n 1 /opt/tritonserver/bin/tritonserver \
  --model-repository=/srv/tpforge/repository \
  --http-port=8000 \
  --grpc-port=8001 \
  --metrics-port=8002 \
  --model-control-mode=explicit \
  --load-model=tensorrt_llm \
  --exit-timeout-secs=328 \
  --disable-auto-complete-config \
  --backend-config=python,shm-region-prefix-name=prefix3_ \
  : -n 1 /opt/tritonserver/bin/tritonserver \
  --model-repository=/srv/tpforge/repository \
  --http-port=8000 \
  --grpc-port=8001 \
  --metrics-port=8002 \
  --model-control-mode=explicit \
  --load-model=tensorrt_llm \
  --exit-timeout-secs=328 \
  --disable-auto-complete-config \
  --backend-config=python,shm-region-prefix-name=prefix4_ \
  : -n 1 /opt/tritonserver/bin/tritonserver \
  --model-repository=/srv/tpforge/repository \
  --http-port=8000 \
  --grpc-port=8001 \
  --metrics-port=8002 \
  --model-control-mode=explicit \
  --load-model=tensorrt_llm \
  --exit-timeout-secs=328 \
  --disable-auto-complete-config \
  --backend-config=python,shm-region-prefix-name=prefix5_ \
  : -n 1 /opt/tritonserver/bin/tritonserver \
  --model-repository=/srv/tpforge/repository \
  --http-port=8000 \
  --grpc-port=8001 \
  --metrics-port=8002 \
  --model-control-mode=explicit \
  --load-model=tensorrt_llm \
  --exit-timeout-secs=328 \
  --disable-auto-complete-config \
  --backend-config=python,shm-region-prefix-name=prefix6_ \
  : -n 1 /opt/tritonserver/bin/tritonserver \
  --model-repository=/srv/tpforge/repository \
  --http-port=8000 \
  --grpc-port=8001 \
  --metrics-port=8002 \
  --model-control-mode=explicit \
  --load-model=tensorrt_llm \
  --exit-timeout-secs=328 \
  --disable-auto-complete-config \
  --backend-config=python,shm-region-prefix-name=prefix7_ \
  : -n 1 /opt/tritonserver/bin/tritonserver \
  --model-repository=/srv/tpforge/repository \
  --http-port=8000 \
  --grpc-port=8001 \
  --metrics-port=8002 \
  --model-control-mode=explicit \
  --load-model=tensorrt_llm \
  --exit-timeout-secs=328 \
  --disable-auto-complete-config \
  --backend-config=python,shm-region-prefix-name=prefix8_ \
  : -n 1 /opt/tritonserver/bin/tritonserver \
  --model-repository=/srv/tpforge/repository \
  --http-port=8000 \
  --grpc-port=8001 \
  --metrics-port=8002 \
  --model-control-mode=explicit \
  --load-model=tensorrt_llm \
  --exit-timeout-secs=328 \
  --disable-auto-complete-config \
  --backend-config=python,shm-region-prefix-name=prefix9_ \
  : -n 1 /opt/tritonserver/bin/tritonserver \
  --model-repository=/srv/tpforge/repository \
  --http-port=8000 \
  --grpc-port=8001 \
  --metrics-port=8002 \
  --model-control-mode=explicit \
  --load-model=tensorrt_llm \
  --exit-timeout-secs=328 \
  --disable-auto-complete-config \
  --backend-config=python,shm-region-prefix-name=prefix10_ \
  : -n 1 /opt/tritonserver/bin/tritonserver \
  --model-repository=/srv/tpforge/repository \
  --http-port=8000 \
  --grpc-port=8001 \
  --metrics-port=8002 \
  --model-control-mode=explicit \
  --load-model=tensorrt_llm \
  --exit-timeout-secs=328 \
  --disable-auto-complete-config \
  --backend-config=python,shm-region-prefix-name=prefix11_ \
  : -n 1 /opt/tritonserver/bin/tritonserver \
  --model-repository=/srv/tpforge/repository \
  --http-port=8000 \
  --grpc-port=8001 \
  --metrics-port=8002 \
  --model-control-mode=explicit \
  --load-model=tensorrt_llm \
  --exit-timeout-secs=328 \
  --disable-auto-complete-config \
  --backend-config=python,shm-region-prefix-name=prefix12_ \
  : -n 1 /opt/tritonserver/bin/tritonserver \
  --model-repository=/srv/tpforge/repository \
  --http-port=8000 \
  --grpc-port=8001 \
  --metrics-port=8002 \
  --model-control-mode=explicit \
  --load-model=tensorrt_llm \
  --exit-timeout-secs=328 \
  --disable-auto-complete-config \
  --backend-config=python,shm-region-prefix-name=prefix13_ \
  : -n 1 /opt/tritonserver/bin/tritonserver \
  --model-repository=/srv/tpforge/repository \
  --http-port=8000 \
  --grpc-port=8001 \
  --metrics-port=8002 \
  --model-control-mode=explicit \
  --load-model=tensorrt_llm \
  --exit-timeout-secs=328 \
  --disable-auto-complete-config \
  --backend-config=python,shm-region-prefix-name=prefix14_ \
  : -n 1 /opt/tritonserver/bin/tritonserver \
  --model-repository=/srv/tpforge/repository \
  --http-port=8000 \
  --grpc-port=8001 \
  --metrics-port=8002 \
  --model-control-mode=explicit \
  --load-model=tensorrt_llm \
  --exit-timeout-secs=328 \
  --disable-auto-complete-config \
  --backend-config=python,shm-region-prefix-name=prefix15_

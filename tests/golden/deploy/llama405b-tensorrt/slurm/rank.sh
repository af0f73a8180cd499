#!/bin/bash
# One rank: srun starts it once a GPU, and PMIx makes the ranks one MPI world.
set -euo pipefail
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1
if [ "${SLURM_PROCID:?is set by srun}" -gt 0 ]; then
    exec python3 launch.py --grace 328 --follow /opt/tritonserver/bin/tritonserver \
  --model-repository=/data/out/Llama-3.1-405B-Instruct-tp8-pp2/repository \
  --http-port=8000 \
  --grpc-port=8001 \
  --metrics-port=8002 \
  --model-control-mode=explicit \
  --load-model=tensorrt_llm \
  --exit-timeout-secs=328 \
  --disable-auto-complete-config \
  "--backend-config=python,shm-region-prefix-name=prefix${SLURM_PROCID}_"
fi
exec python3 launch.py --grace 328 /opt/tritonserver/bin/tritonserver \
  --model-repository=/data/out/Llama-3.1-405B-Instruct-tp8-pp2/repository \
  --http-port=8000 \
  --grpc-port=8001 \
  --metrics-port=8002 \
  --metrics-config=histogram_latencies=true \
  --exit-timeout-secs=328 \
  --disable-auto-complete-config \
  --backend-config=python,shm-region-prefix-name=prefix0_

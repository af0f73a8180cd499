#!/bin/bash
# One rank: srun starts it once a GPU, and PMIx makes the ranks one MPI world.
set -euo pipefail
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1
if [ "${SLURM_PROCID:?is set by srun}" -gt 0 ]; then
    exec python3 launch.py --grace 328 --follow trtllm-llmapi-launch /opt/tritonserver/bin/tritonserver \
  --model-repository=/data/out/Llama-3.3-70B-Instruct-tp4/repository \
  --http-port=8000 \
  --grpc-port=8001 \
  --metrics-port=8002 \
  --metrics-config=histogram_latencies=true \
  --exit-timeout-secs=328 \
  --disable-auto-complete-config \
  --backend-config=python,shm-region-prefix-name=prefix0_
fi
exec python3 launch.py --grace 328 trtllm-llmapi-launch /opt/tritonserver/bin/tritonserver \
  --model-repository=/data/out/Llama-3.3-70B-Instruct-tp4/repository \
  --http-port=8000 \
  --grpc-port=8001 \
  --metrics-port=8002 \
  --metrics-config=histogram_latencies=true \
  --exit-timeout-secs=328 \
  --disable-auto-complete-config \
  --backend-config=python,shm-region-prefix-name=prefix0_

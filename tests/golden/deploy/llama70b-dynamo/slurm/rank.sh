#!/bin/bash
# One rank: srun starts it once a GPU, and PMIx makes the ranks one MPI world.
set -euo pipefail
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1
export TRTLLM_NO_USAGE_STATS=1
if [ "${SLURM_PROCID:?is set by srun}" -gt 0 ]; then
    exec python3 launch.py --grace 328 --follow trtllm-llmapi-launch trtllm-serve serve /data/out/Llama-3.3-70B-Instruct-tp4-pytorch/engine/model \
  --host 0.0.0.0 \
  --port 8000 \
  --extra_llm_api_options llm.yaml \
  --served_model_name Llama-3.3-70B-Instruct-tp4-pytorch
fi
exec python3 launch.py --grace 328 trtllm-llmapi-launch trtllm-serve serve /data/out/Llama-3.3-70B-Instruct-tp4-pytorch/engine/model \
  --host 0.0.0.0 \
  --port 8000 \
  --extra_llm_api_options llm.yaml \
  --served_model_name Llama-3.3-70B-Instruct-tp4-pytorch

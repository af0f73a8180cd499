#!/bin/bash
# One rank: srun starts it once a GPU, and PMIx makes the ranks one MPI world.
set -euo pipefail
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1
exec tpforge serve /data/out/SmolLM2-135M-Instruct-tp4/engine \
  --host 0.0.0.0 \
  --port-base 8000 \
  --load-timeout 122 \
  --drain 30

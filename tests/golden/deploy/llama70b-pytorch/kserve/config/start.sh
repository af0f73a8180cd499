#!/bin/sh
# Proves the engine that KServe has mounted, then starts the server in this shell's place.
set -eu
python3 /etc/tpforge/prove.py /mnt/models/engine 823b002c6973db88b4615a986f01c3f2a062cbf55d0fa3a68c6a6857a4e5ab8c
exec python3 /etc/tpforge/launch.py --grace 328 mpirun --allow-run-as-root -n 4 trtllm-llmapi-launch /opt/tritonserver/bin/tritonserver --model-repository=/mnt/models/repository --http-port=8000 --grpc-port=8001 --metrics-port=8002 --metrics-config=histogram_latencies=true --exit-timeout-secs=328 --disable-auto-complete-config --backend-config=python,shm-region-prefix-name=prefix0_

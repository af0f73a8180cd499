#!/bin/sh
# Proves the engine that KServe has mounted, then starts the server in this shell's place.
set -eu
python3 /etc/tpforge/prove.py /mnt/models/engine 823b002c6973db88b4615a986f01c3f2a062cbf55d0fa3a68c6a6857a4e5ab8c
exec python3 /etc/tpforge/launch.py --grace 328 trtllm-serve serve /mnt/models/engine/model --host 0.0.0.0 --port 8000 --extra_llm_api_options /etc/tpforge/llm.yaml --served_model_name Llama-3.3-70B-Instruct-tp4-pytorch

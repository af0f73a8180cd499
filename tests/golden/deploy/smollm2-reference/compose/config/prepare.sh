#!/bin/sh
# Brings the engine, proves every byte of it, and renders its model repository, before Triton starts.
set -eu
engine=/srv/engines/SmolLM2-135M-Instruct-tp4
home=/srv/tpforge
tpforge engines verify "$engine"
mkdir -p "$home"
ln -sfn "$engine" "$home/engine"
tpforge render "$home/engine" --force

#!/bin/sh
# Lays out in a new FOLDER what KServe is to mount at /mnt/models. Usage: sh storage.sh FOLDER
set -eu
folder=${1:?expected a folder to make}
mkdir "$folder"
folder=$(cd "$folder" && pwd)
# A repository names its engine by an absolute path: it is rendered where the engine will lie.
docker run --rm --user "$(id -u):$(id -g)" --env HOME=/tmp \
    --volume /data/out/Llama-3.3-70B-Instruct-tp4/engine:/mnt/models/engine:ro --volume "$folder":/out tpforge:0.1.0 \
    tpforge render /mnt/models/engine --out /out/repository
cp -RL /data/out/Llama-3.3-70B-Instruct-tp4/engine "$folder/engine"

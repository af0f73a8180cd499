#!/bin/sh
# Lays out in a new FOLDER what KServe is to mount at /mnt/models. Usage: sh storage.sh FOLDER
set -eu
folder=${1:?expected a folder to make}
mkdir "$folder"
folder=$(cd "$folder" && pwd)
cp -RL /data/out/Llama-3.3-70B-Instruct-tp4-pytorch/engine "$folder/engine"

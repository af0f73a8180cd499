#!/bin/sh
# Proves the engine that KServe has mounted, then starts the server in this shell's place.
set -eu
python3 /etc/tpforge/prove.py /mnt/models/engine 8f179305f521ce8360ca462b5c29e542ebeff7528e88dcb994ca35480c1cc37d
ln -sfn /mnt/models/engine /srv/tpforge/engine
exec tpforge serve /srv/tpforge/engine --host 0.0.0.0 --port-base 8000 --load-timeout 122 --drain 30

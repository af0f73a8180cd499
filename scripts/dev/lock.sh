#!/usr/bin/env bash
# Writes the locks: the versions and hashes of all that each .in needs, and no index address.
# It installs nothing into .venv: uv lives in a temporary environment.
set -euo pipefail
cd "$(dirname "$0")/../.."

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

"$(scripts/dev/setup-system.sh)" -m venv "$scratch/venv"
"$scratch/venv/bin/pip" -qq install uv

# A marker that is never true leaves a package, and what it alone needs, out.
never='sys_platform == "never"'
for package in torch aiohttp gevent geventhttpclient greenlet pyzmq sh wrapt typing-inspect importlib-metadata; do
    echo "$package; $never"
done >"$scratch/overrides.txt"

compile() {
    "$scratch/venv/bin/uv" --quiet pip compile "$1.in" \
        --output-file "$1.lock" "${@:2}" \
        --override "$scratch/overrides.txt" \
        --python-version 3.11 --python-platform x86_64-manylinux_2_35 \
        --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate \
        --custom-compile-command "make lock"
    grep -c '^[a-z].*==' "$1.lock" | sed "s|\$| packages in $1.lock|"
}

compile requirements "$@"

# In its own environment Dynamo needs what ours leaves out, but not aisimulate, which is no package.
echo "aisimulate; $never" >"$scratch/overrides.txt"
compile triton_repo/openai/requirements "$@"

# The checkers stand beside .venv and take its versions; checkov is in an environment of its own.
: >"$scratch/overrides.txt"
compile requirements/manifests --constraint requirements.lock "$@"
compile requirements/checkov "$@"
compile requirements/transformers-4 "$@"

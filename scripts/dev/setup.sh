#!/usr/bin/env bash
# Makes .venv ready: Python packages of requirements.lock with their hashes checked, torch, tpforge itself.
# A second run finds the stamp and does nothing. `--quiet`: says nothing then.
set -euo pipefail
cd "$(dirname "$0")/../.."

python=$(scripts/dev/setup-system.sh)
stamp=.venv/.setup-stamp
wanted=$({ echo "$python $PWD"; "$python" -V; cat requirements.lock pyproject.toml scripts/dev/setup.sh; } | sha256sum)

if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    [ "${1:-}" = --quiet ] || echo "setup: .venv is up to date ($("$python" -V))"
    exit 0
fi

# An environment that was moved here, made with another Python, or never finished, is made anew.
if [ -d .venv ] && ! grep -qxF "command = $python -m venv $PWD/.venv" .venv/pyvenv.cfg 2>/dev/null; then
    echo "setup: removing .venv, which was not made by $python for this folder"
    rm -rf .venv
fi
if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    echo "setup: making .venv with $python"
    "$python" -m venv "$PWD/.venv"
fi

pip=(.venv/bin/python -m pip --disable-pip-version-check -qq)
torch=$(sed -n 's/.*"\(torch==[^"]*\)".*/\1/p' pyproject.toml)

echo "setup: installing the $(grep -c '^[a-z].*==' requirements.lock) packages of requirements.lock"
"${pip[@]}" install --require-hashes --no-deps --requirement requirements.lock
# After the lock, so that all that its CPU build needs is there: pip adds only what a CUDA build needs on top.
echo "setup: installing $torch, the build that pip finds on this machine"
"${pip[@]}" install "$torch"
echo "setup: installing tpforge from this folder"
"${pip[@]}" install --no-deps --no-build-isolation --editable .

echo "$wanted" >"$stamp"
echo "setup: .venv is ready: $(.venv/bin/python -V), torch $(.venv/bin/python -c 'import torch; print(torch.__version__)')"

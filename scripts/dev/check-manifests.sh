#!/usr/bin/env bash
# Runs the tests that need the tools of their field and are skipped without them: all marked `manifests`. It fails
# when one is skipped all the same. The Python packages go into .venv-manifests, which sees those of .venv and never
# changes them; the commands come from Debian. Neither is needed by `make test`.
set -euo pipefail
cd "$(dirname "$0")/../.."

say() { echo "check-manifests: $*" >&2; }

packages=()
command -v promtool >/dev/null || packages+=(prometheus)
command -v shellcheck >/dev/null || packages+=(shellcheck)
command -v orted >/dev/null || packages+=(openmpi-bin)
if [ ${#packages[@]} -gt 0 ]; then
    as_root=()
    [ "$(id -u)" = 0 ] || as_root=(sudo)
    say "installing Debian packages: ${packages[*]}"
    if ! { "${as_root[@]}" apt-get -qq update &&
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
            apt-get -qq install --yes --no-install-recommends "${packages[@]}"; } >/dev/null; then
        say "that failed; install them by hand: ${packages[*]}"
        exit 3
    fi
fi
if ! command -v kubectl >/dev/null; then
    say "kubectl is not on PATH; expected 1.21 or later, whose kustomize knows what the overlays use"
    say "(Debian 12 has 1.20; see https://kubernetes.io/docs/tasks/tools/)"
    exit 3
fi

environment=.venv-manifests
stamp=$environment/.setup-stamp
wanted=$({ echo "$PWD"; .venv/bin/python -V; cat requirements/manifests.lock requirements.lock "$0"; } | sha256sum)
if ! [ -f "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
    say "installing into $environment (about 560 MB): $(sed -n 's/^\([a-z].*==[^ ]*\).*/\1/p' requirements/manifests.in | xargs)"
    rm -rf "$environment"
    .venv/bin/python -m venv "$environment"
    site='import sysconfig; print(sysconfig.get_path("purelib"))'
    echo "import site; site.addsitedir('$(.venv/bin/python -c "$site")')" \
        >"$("$environment/bin/python" -c "$site")/beside.pth"
    # pip tells on stderr, even when all went well, what the lock leaves out of .venv on purpose.
    if ! said=$("$environment/bin/python" -m pip --disable-pip-version-check -q install \
        --require-hashes --requirement requirements/manifests.lock 2>&1); then
        echo "$said" >&2
        exit 3
    fi
    echo "$wanted" >"$stamp"
fi

# checkov pins what others want in other versions: an environment of its own.
wanted=$({ echo "$PWD"; cat requirements/checkov.lock; } | sha256sum)
if [ "$(cat .venv-checkov/.setup-stamp 2>/dev/null)" != "$wanted" ]; then
    say "installing checkov into .venv-checkov (about 470 MB)"
    rm -rf .venv-checkov
    .venv/bin/python -m venv .venv-checkov
    .venv-checkov/bin/python -m pip --disable-pip-version-check -q install \
        --require-hashes --requirement requirements/checkov.lock >&2 || exit 3
    echo "$wanted" >.venv-checkov/.setup-stamp
fi

report=$(mktemp)
trap 'rm -f "$report"' EXIT
# Ahead of .venv's, so that a subprocess of a test finds the same packages.
PATH=$PWD/$environment/bin:$PWD/.venv-checkov/bin:$PATH "$environment/bin/python" -m pytest -m manifests -rs --junit-xml "$report" "$@"
"$environment/bin/python" - "$report" <<'PYTHON'
import sys
import xml.etree.ElementTree as tree

suite = tree.parse(sys.argv[1]).getroot().find("testsuite")
ran, skipped = int(suite.get("tests")), int(suite.get("skipped"))
if skipped or not ran:
    sys.exit(f"check-manifests: {skipped} of {ran} tests were skipped, expected none; the reasons are above")
PYTHON

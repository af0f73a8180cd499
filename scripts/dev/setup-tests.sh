#!/usr/bin/env bash
# Installs the Debian packages that some tests want, where apt can: a browser for the pages, shellcheck for the
# scripts that are generated. It never fails: without them those tests are skipped and say what is missing.
set -euo pipefail

say() { echo "setup: $*" >&2; }

missing=()
command -v chromium-headless-shell >/dev/null || command -v chromium >/dev/null ||
    command -v google-chrome >/dev/null || missing+=(chromium-headless-shell)
command -v shellcheck >/dev/null || missing+=(shellcheck)
[ ${#missing[@]} -gt 0 ] || exit 0

as_root=()
if [ "$(id -u)" != 0 ]; then
    as_root=(sudo -n)
    sudo -n true 2>/dev/null || { say "some tests are skipped without ${missing[*]}"; exit 0; }
fi
command -v apt-get >/dev/null || { say "some tests are skipped without ${missing[*]}"; exit 0; }
say "installing Debian packages for tests: ${missing[*]}"
if ! { "${as_root[@]}" apt-get -qq update &&
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get -qq install --yes --no-install-recommends "${missing[@]}"; } >/dev/null 2>&1; then
    say "that failed; some tests are skipped without ${missing[*]}"
fi
exit 0

#!/usr/bin/env bash
# Makes sure the system has what tpforge takes from it, and prints the path of the Python to use.
# It installs Debian packages only when something is missing, and says so on stderr; it does not touch .venv.
#
# Triton's Python backend loads the *system's* libpython, so the environment is made with the system's Python.
# numpy 1.26, which Triton's stub needs, has no wheels beyond Python 3.12.
set -euo pipefail

say() { echo "setup: $*" >&2; }

system_python() {
    for version in 3.11 3.12; do
        if [ -x "/usr/bin/python$version" ]; then
            echo "$version"
            return
        fi
    done
}

# Not by a pipe: grep -q ends at the first match, and pipefail then takes ldconfig's SIGPIPE for a miss.
has_library() { [[ "$(/sbin/ldconfig -p)" == *"$1 "* ]]; }

missing_packages() { # $1: the Python version
    [ -x "/usr/bin/python$1" ] || echo "python$1"
    "/usr/bin/python$1" -c 'import ensurepip, venv' 2>/dev/null || echo "python$1-venv"
    has_library "libpython$1.so.1.0" || echo "libpython$1"
    has_library libstdc++.so.6 || echo libstdc++6
    has_library libz.so.1 || echo zlib1g
}

install() {
    if ! command -v apt-get >/dev/null; then
        say "this system has no apt-get; install by hand what these Debian packages hold: $*"
        exit 3
    fi
    local as_root=()
    if [ "$(id -u)" != 0 ]; then
        if ! command -v sudo >/dev/null; then
            say "missing: $*. You are not root and there is no sudo; as root, run:"
            say "  apt-get update && apt-get install --yes --no-install-recommends $*"
            exit 3
        fi
        as_root=(sudo)
    fi
    say "installing Debian packages: $*"
    "${as_root[@]}" apt-get -qq update >/dev/null
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get -qq install --yes --no-install-recommends "$@" >/dev/null
}

version=$(system_python)
if [ -z "$version" ]; then
    # Debian 12 has 3.11, Ubuntu 24.04 has 3.12; /etc/os-release tells them apart before apt knows anything.
    version=$(. /etc/os-release && [ "${ID:-}" = ubuntu ] && echo 3.12 || echo 3.11)
fi

read -ra packages <<<"$(missing_packages "$version" | tr '\n' ' ')"
if [ ${#packages[@]} -gt 0 ]; then
    install "${packages[@]}"
    read -ra packages <<<"$(missing_packages "$version" | tr '\n' ' ')"
    if [ ${#packages[@]} -gt 0 ]; then
        say "still missing after the installation: ${packages[*]}"
        exit 3
    fi
fi
echo "/usr/bin/python$version"

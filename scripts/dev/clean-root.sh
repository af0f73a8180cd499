#!/usr/bin/env bash
# Runs a command in a root that has this operating system's own programs and nothing else: no checkout, no home, no
# environment, nothing of /usr/local. It needs user namespaces and no root. The folder becomes the root, and what it holds
# is seen there; its /root is the home. What the command leaves running ends with it.
# usage: scripts/dev/clean-root.sh [--bind DIR]... FOLDER [NAME=VALUE]... COMMAND [ARGUMENT]...
set -euo pipefail

binds=()
while [ "${1:-}" = --bind ]; do
    binds+=("$2")
    shift 2
done
[ $# -ge 2 ] || { echo "usage: $0 [--bind DIR]... FOLDER [NAME=VALUE]... COMMAND [ARGUMENT]..." >&2; exit 2; }
mkdir -p "$1"
root=$(realpath "$1")
shift
mkdir -p "$root"/{usr,etc,proc,dev,sys,tmp,run,root,home,var/tmp}
for name in bin sbin lib lib32 lib64 libx32; do
    [ ! -L "/$name" ] || ln -sfn "$(readlink "/$name")" "$root/$name"
done
for folder in "${binds[@]}"; do
    mkdir -p "$root$folder"
done

export CLEAN_ROOT=$root
# shellcheck disable=SC2016  # The inner shell expands them.
exec unshare --user --map-root-user --mount --pid --fork --kill-child -- bash -euc '
    # Before the folders that are bound: one may lie in /dev/shm.
    mount --rbind /dev "$CLEAN_ROOT/dev"
    mount --rbind /sys "$CLEAN_ROOT/sys"
    mount -t proc none "$CLEAN_ROOT/proc"
    for folder in /usr /etc "${@:2:$1}"; do
        mount --bind "$folder" "$CLEAN_ROOT$folder"
        mount -o remount,bind,ro "$CLEAN_ROOT$folder"
    done
    mount -t tmpfs none "$CLEAN_ROOT/usr/local"
    shift "$(($1 + 1))"
    exec chroot "$CLEAN_ROOT" /usr/bin/env --ignore-environment --chdir=/root HOME=/root LANG=C.UTF-8 \
        PATH=/root/.local/bin:/usr/bin:/usr/sbin "$@"
' clean-root "${#binds[@]}" "${binds[@]}" "$@"

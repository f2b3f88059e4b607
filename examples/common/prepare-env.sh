#!/usr/bin/env bash
# Gives a Python environment that holds what a requirements file asks for.
#
#   prepare-env.sh REQUIREMENTS [LINK]
#
# Prints the environment's folder, and makes LINK a symbolic link to it if given. Environments are cached outside
# the checkout, named by a hash of the requirements and of the interpreter, so a second job starts at once:
#   ${TRAINYARD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/trainyard}/envs/HASH
# Several nodes may ask at the same time: one builds, the others wait for its lock. A marker is written last, so an
# environment that was interrupted half-way is never used, but built again.
set -euo pipefail

say() { printf 'prepare-env: %s\n' "$*" >&2; }

if [[ $# -lt 1 || $# -gt 2 || ! -r ${1-} ]]; then
    say "usage: prepare-env.sh REQUIREMENTS [LINK] (a readable file)"
    exit 2
fi
requirements=$1
link=${2-}
python=${PYTHON:-python3}

if ! command -v "$python" >/dev/null; then
    say "$python is not installed. On Debian and Ubuntu: apt-get install python3 python3-venv"
    exit 1
fi
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    say "$python cannot make environments. On Debian and Ubuntu: apt-get install python3-venv"
    exit 1
fi

cache=${TRAINYARD_CACHE:-${XDG_CACHE_HOME:-${HOME:?is not set, and neither are TRAINYARD_CACHE and XDG_CACHE_HOME}/.cache}/trainyard}
# An environment belongs to one interpreter: its version, and where it is installed, are part of the name.
interpreter=$("$python" -c 'import platform, sys; print(sys.version, sys.base_prefix, platform.machine())')
wanted=$(sed -E -e 's/(^|[[:space:]]+)#.*//' -e '/^[[:space:]]*$/d' -- "$requirements")  # comments change nothing
hash=$(printf '%s\n' "$interpreter" "$wanted" | sha256sum | cut -c 1-16)
environment=$cache/envs/$hash
marker=$environment/.complete

mkdir -p -- "$cache/envs"
exec 9>"$environment.lock"
if ! flock --nonblock 9; then
    say "another process prepares $environment: waiting"
    flock 9
fi

if [[ ! -e $marker ]]; then
    say "installing ${wanted//$'\n'/, } into $environment"
    rm -rf -- "$environment"
    "$python" -m venv "$environment"
    quiet=(--quiet)
    if [[ -t 2 ]]; then quiet=(); fi  # somebody watches: pip shows how far it is
    "$environment/bin/python" -m pip install "${quiet[@]}" --no-input --disable-pip-version-check --no-cache-dir \
        --requirement "$requirements" >&2
    cp -- "$requirements" "$environment/requirements.txt"
    : >"$marker"
    say "ready after $SECONDS s"
else
    say "using $environment"
fi
flock --unlock 9

if [[ -n $link ]]; then
    ln --symbolic --force --no-dereference -- "$environment" "$link"
fi
printf '%s\n' "$environment"

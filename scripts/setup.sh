#!/usr/bin/env bash
# All the set-up codelutra needs: setup.sh [python] [docker] [image]   (no argument: these three, in this order)
#
#   python  .venv with the locked packages (requirements/gpu.txt where nvidia-smi finds a GPU, else requirements/cpu.txt;
#           CODELUTRA_PACKAGES=cpu or gpu says it for a machine where the GPU is not there yet, such as an image)
#   docker  a Docker daemon that answers: the one at DOCKER_HOST or the default socket, else one installed and started
#   image   the image the sandbox runs programs in
#   cluster what several machines need besides (requirements/cluster.txt): Ray, an S3 client, Prefect's Docker work pool
#   postgres  PostgreSQL, on Debian as root; scripts/server.sh starts and uses it
#
# It says what it installs before it does it. Kill it at any moment and run it again: what is whole is kept, what is
# half-made is made again. When nothing is to be done it takes a fraction of a second and says nothing. Exit 2: needs you.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$@" >&2; exit 2; }

on_debian_as_root() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null && [ -e /etc/debian_version ]; }

apt_install() {
    say "installs with apt: $*"
    local quiet=(env DEBIAN_FRONTEND=noninteractive DEBCONF_NOWARNINGS=yes) tries=0
    local apt=("${quiet[@]}" apt-get -qq -o DPkg::Lock::Timeout=300)
    # After a kill, dpkg may still be at work for a moment, or refuses everything until it was told to go on.
    until "${quiet[@]}" dpkg --force-confold --configure -a >/dev/null 2>&1 9>&-; do
        ((++tries < 12)) || die "dpkg was interrupted and cannot go on; see what 'dpkg --configure -a' says."
        if [ $tries = 1 ]; then say "waits for dpkg, which is at work or was interrupted"; fi
        sleep 5
    done
    # 9 is the lock of this set-up; a service that a package starts must not inherit it.
    "${apt[@]}" update 9>&- || say "apt-get update failed; going on with the lists that are here"
    "${apt[@]}" install -y "$@" >/dev/null 9>&- || die "apt could not install $*; see above, put it right, run this again."
}

# ---------------------------------------------------------------------------------------------------------- python

is_python311() { "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; }

find_python() {
    local candidate
    for candidate in python3.11 python3 python; do
        if is_python311 "$candidate"; then echo "$candidate"; return; fi
    done
    return 1
}

make_venv() {
    local python
    if ! python=$(find_python); then
        on_debian_as_root || die "Python 3.11 is needed and was not found; install it (python3.11 on the PATH), run this again."
        apt_install python3.11 python3.11-venv
        python=python3.11
    elif ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        on_debian_as_root || die "$python has no venv module; install it (python3.11-venv on Debian), run this again."
        apt_install python3.11-venv
    fi
    "$python" -m venv .venv
}

# pip's own value of a setting (environment before files), lists separated by spaces; empty when it is not set.
pip_setting() {
    sed -nE "s/^(:env:|global|install)\.$1='(.*)'\$/\2/p" <<<"$pip_config" | head -n 1 | sed 's/\\n/ /g; s/^ *//'
}

# uv reads none of pip's settings; a mirror or a folder of wheels that was set up for pip must hold for it too.
export_pip_settings_to_uv() {
    local pip_config value
    pip_config=$(.venv/bin/python -m pip config list 2>/dev/null) || return 0
    value=$(pip_setting index-url);       [ -z "$value" ] || export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$value}"
    value=$(pip_setting extra-index-url); [ -z "$value" ] || export UV_INDEX="${UV_INDEX:-$value}"
    value=$(pip_setting find-links);      [ -z "$value" ] || export UV_FIND_LINKS="${UV_FIND_LINKS:-${value// /,}}"
    value=$(pip_setting cert);            [ -z "$value" ] || export SSL_CERT_FILE="${SSL_CERT_FILE:-$value}"
    # The best match of all indexes, not the first index that has the name: what comes is checked by its hash.
    export UV_INDEX_STRATEGY="${UV_INDEX_STRATEGY:-unsafe-best-match}" UV_HTTP_TIMEOUT="${UV_HTTP_TIMEOUT:-180}"
}

install() {
    if [ -x .venv/bin/uv ]; then
        .venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps "$@"
    else
        .venv/bin/python -m pip install --quiet --no-deps "$@"
    fi
}

# Every file is checked against the hashes in the lock, wherever it comes from. torch's CPU build has none there: PyPI, which
# names the others, does not carry it.
install_packages() { # LOCK
    local torch
    sed -n '/^uv==/,/[^\\]$/p' "$1" >.setup/uv.txt
    .venv/bin/python -m pip install -qq --no-deps --require-hashes -r .setup/uv.txt ||
        say "uv is not to be had here; pip does its work, slower"
    export_pip_settings_to_uv
    torch=$(grep -E '^torch==.*\+cpu' "$1" || true)
    if [ -n "$torch" ] && install --dry-run "$torch" >/dev/null 2>&1; then
        install "$torch" || return
    elif [ -n "$torch" ]; then
        say "$torch is not on the index that is configured here; it comes from PyTorch's own, $TORCH_CPU_INDEX"
        install --index-url "$TORCH_CPU_INDEX" "$torch" || return
    fi
    grep -vE '^torch==.*\+cpu' "$1" >.setup/hashed.txt
    install --require-hashes -r .setup/hashed.txt && install --no-build-isolation -e . || return
    # Where PYTHONDONTWRITEBYTECODE is set, as in many containers, every process would compile all it imports again at every
    # start, which doubles the time of a start. Some packages hold files that are no Python: those are passed over.
    .venv/bin/python -m compileall -qq -j 0 .venv/lib/python3.11/site-packages || true
}

setup_python() {
    local extra=${CODELUTRA_PACKAGES:-cpu} lock stamp made_for
    if [ -z "${CODELUTRA_PACKAGES:-}" ] && [[ $(nvidia-smi -L 2>/dev/null) == GPU* ]]; then extra=gpu; fi
    case $extra in cpu | gpu) ;; *) die "CODELUTRA_PACKAGES=$extra is neither cpu nor gpu; leave it unset to have it found out." ;; esac
    lock=requirements/$extra.txt
    stamp=.venv/.whole-$(cat "$lock" pyproject.toml "${BASH_SOURCE[0]}" <(pwd; echo $extra) | sha256sum | cut -c 1-16)
    if [ -e "$stamp" ]; then return; fi

    say "makes .venv ($(pwd)/.venv) and installs the $(grep -c == "$lock") packages of $lock with uv:"
    if [ $extra = gpu ]; then
        say "vLLM, torch for CUDA, TRL, Prefect and the tools of development; about 12 GB on disk, some minutes"
    else
        say "vLLM's CPU build, torch for CPUs, TRL, Prefect and the tools of development; about 4 GB on disk, one minute to four"
    fi
    # .unfinished is there from before the first file until the last one. Found here, it means a kill in between, and
    # packages that look installed may lack files. The rename keeps a kill during the removal harmless as well.
    # CPU torch would stay under CUDA vLLM, since to a version a +cpu behind it makes no difference; and the other way round.
    made_for=$(cat .venv/.made-for 2>/dev/null || echo $extra)
    if [ -e .venv/.unfinished ] || [ "$made_for" != $extra ] || { [ -e .venv/bin/python ] && ! is_python311 .venv/bin/python; }; then
        say ".venv is half-made, for a machine with another kind of processor or not of Python 3.11: it is made again"
        mv .venv ".setup/old-venv-$$"
    fi
    rm -rf .setup/old-venv-*
    mkdir -p .venv
    rm -f .venv/.whole-*
    touch .venv/.unfinished
    echo $extra >.venv/.made-for
    .venv/bin/python -c 'import pip' 2>/dev/null || make_venv
    install_packages "$lock" || die "the packages of $lock could not be installed; the reason stands above." \
        "Where an index is slow or away, run the same command again: what was fetched is kept."
    mv .venv/.unfinished "$stamp"
}

# Into the .venv that `python` made; removed with its stamp where that is made anew.
setup_cluster() {
    local lock=requirements/cluster.txt stamp
    stamp=.venv/.whole-cluster-$(cat "$lock" <(ls .venv/.whole-* | grep -v cluster) | sha256sum | cut -c 1-16)
    if [ -e "$stamp" ]; then return; fi
    say "installs Ray, an S3 client and server and Prefect's Docker work pool, as $lock says: 300 MB, under a minute"
    export_pip_settings_to_uv
    install --require-hashes -r "$lock" ||
        die "the packages of $lock could not be installed; the reason stands above. Run the same command again."
    rm -f .venv/.whole-cluster-*
    touch "$stamp"
}

# ---------------------------------------------------------------------------------------------------------- docker

# 0: a daemon answers. 13: its socket is there but not for this user. 1: none.
docker_answers() {
    .venv/bin/python -I - <<'PYTHON'
import os, socket, sys
host = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
try:
    if host.startswith("unix://"):  # the SDK takes half a second to import; this takes none
        with socket.socket(socket.AF_UNIX) as daemon:
            daemon.settimeout(5)
            daemon.connect(host.removeprefix("unix://"))
            daemon.sendall(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")
            sys.exit(b" 200 " not in daemon.recv(64))
    import docker
    docker.from_env(timeout=5).ping()
except PermissionError:
    sys.exit(13)
except Exception:
    sys.exit(1)
PYTHON
}

wait_for_docker() { # SECONDS PID: until the daemon answers; fails early when the process is gone
    local deadline=$((SECONDS + $1))
    until docker_answers; do
        if ((SECONDS >= deadline)) || ! kill -0 "$2" 2>/dev/null; then return 1; fi
        sleep 0.5
    done
}

start_docker() {
    local flags log=/var/log/dockerd.log pid
    if [ -d /run/systemd/system ]; then
        say "starts Docker: systemctl start docker"
        systemctl start docker && wait_for_docker 60 $$ && return
        die "Docker does not start; see 'journalctl -u docker', put it right, run this again."
    fi
    if pid=$(cat /run/docker.pid 2>/dev/null) && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = dockerd ]; then # ours before a kill
        say "waits for the dockerd that is starting (process $pid)"
        wait_for_docker 60 "$pid" && return
        if kill -0 "$pid" 2>/dev/null; then die "dockerd (process $pid) runs but does not answer; stop it, run this again."; fi
    fi
    if ! mountpoint -q /sys/fs/cgroup && command -v cgroupfs-mount >/dev/null; then cgroupfs-mount || true; fi
    # Programs run without a network, so a machine whose kernel lets us set up neither bridge nor iptables is good enough.
    for flags in "" "--iptables=false --bridge=none"; do
        say "starts Docker: dockerd${flags:+ $flags} (log: $log)"
        # shellcheck disable=SC2086  # flags are words
        setsid nohup dockerd $flags >>"$log" 2>&1 </dev/null 9>&- &
        pid=$!
        if wait_for_docker 60 $pid; then return; fi
        kill $pid 2>/dev/null || true
        wait $pid || true
    done
    die "dockerd does not start here; the reason is at the end of $log:" "$(tail -n 5 "$log")"
}

setup_docker() {
    local status=0
    docker_answers || status=$?
    if [ $status = 0 ]; then return; fi
    if [ -n "${DOCKER_HOST:-}" ]; then
        die "no Docker daemon answers at DOCKER_HOST=$DOCKER_HOST." \
            "Start it, or unset DOCKER_HOST to use the default socket, then run this again."
    fi
    if [ $status = 13 ]; then
        die "/var/run/docker.sock is not open to $(id -un). Let an administrator run 'usermod -aG docker $(id -un)'," \
            "log in again, then run this again."
    fi
    PATH=$PATH:/usr/sbin:/sbin
    if [ "$(id -u)" != 0 ] || { ! command -v dockerd >/dev/null && ! on_debian_as_root; }; then
        die "no Docker daemon answers, and this account or system is none that set-up installs one on." \
            "Install Docker Engine (Debian, Ubuntu: 'sudo apt-get install docker.io'; Fedora: 'sudo dnf install moby-engine')," \
            "start it ('sudo systemctl start docker'), allow yourself ('sudo usermod -aG docker $(id -un)'), log in again;" \
            "or point DOCKER_HOST at a daemon you have (Docker Desktop, rootless: 'docker context ls' names its address)." \
            "Then run this again."
    fi
    if ! command -v dockerd >/dev/null; then
        say "no Docker daemon answers: installs Docker Engine, about 300 MB, a minute"
        apt_install docker.io debootstrap # the second makes the image where no registry answers
        if docker_answers; then return; fi # systemd machines start it while installing
    fi
    start_docker
}

# ----------------------------------------------------------------------------------------------------------- image

build_image() { .venv/bin/python -m sandbox.image python >/dev/null; } # says on stderr what it builds, and why it can't

setup_image() {
    local status=0
    build_image || status=$?
    if [ $status = 0 ]; then return; fi
    if [ $status != 2 ] || ! on_debian_as_root || command -v debootstrap >/dev/null; then exit 2; fi
    say "makes the image without a registry, with debootstrap"
    apt_install debootstrap
    build_image || exit 2
}

# -------------------------------------------------------------------------------------------------------- postgres

setup_postgres() {
    if command -v pg_lsclusters >/dev/null && pg_lsclusters --no-header | grep -q .; then return; fi
    on_debian_as_root || die "PostgreSQL is not installed, and this account or system is none that set-up installs it on."
    apt_install postgresql # makes a cluster, and starts it where there is an init
    pg_lsclusters --no-header | grep -q . ||
        die "PostgreSQL is installed and has no cluster; make one ('pg_createcluster VERSION main'), then run this again."
}

# ---------------------------------------------------------------------------------------------------------------

mkdir -p .setup
if command -v flock >/dev/null; then # two commands at once: the second waits for the first
    exec 9>.setup/lock
    flock -n 9 || { say "waits for another set-up in this folder"; flock 9; }
fi
if [ $# = 0 ]; then set -- python docker image; fi
for step; do
    case $step in
        python | docker | image | cluster | postgres) "setup_$step" ;;
        *) die "unknown step '$step'; known: python, docker, image, cluster, postgres" ;;
    esac
done

#!/usr/bin/env bash
# Training on a GPU, checked and measured, in one command: gpu-check.sh [--wheels DIR] [--minutes M] [--rows A,B] [--out FILE]
#
# Takes .venv if there is one, else python3 ($PYTHON goes first). With --wheels the packages in DIR are put into a folder of
# their own for this run, without the network: a bare container needs no more than torch and these. Neither Docker nor vLLM is
# used. What is measured, and what the other arguments mean: benchmarks/gpu.py.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

python=${PYTHON:-}
if [ -z "$python" ]; then
    python=$root/.venv/bin/python
    [ -x "$python" ] || python=python3
fi
wheels='' arguments=()
while [ $# -gt 0 ]; do
    case $1 in
        --wheels) wheels=${2:?--wheels needs a folder}; shift 2 ;;
        *) arguments+=("$1"); shift ;;
    esac
done

path=$root
if [ -n "$wheels" ]; then
    shopt -s nullglob
    files=("$wheels"/*.whl)
    [ ${#files[@]} -gt 0 ] || { echo "gpu-check: no *.whl in $wheels" >&2; exit 2; }
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --disable-pip-version-check \
        --target "$site" "${files[@]}"
    path=$site:$root
fi
PYTHONPATH=$path${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 "$python" -m benchmarks.gpu ${arguments[@]+"${arguments[@]}"}

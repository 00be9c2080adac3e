#!/usr/bin/env bash
# Make or update a work pool of containers on Prefect's server, and deploy the flows into it:
#
#   scripts/pool.sh docker        pool codelutra-docker: each flow run is a container of codelutra's image on the worker's host
#   scripts/pool.sh kubernetes    pool codelutra-kubernetes: each is a job
#
# The pool's template is deploy/docker-pool.json or deploy/kubernetes-pool.json; what you change there, or here by variables, holds
# after the next call. Docker: CODELUTRA_IMAGE (codelutra), CODELUTRA_VOLUME (codelutra; a folder's absolute path, or a volume's
# name), CODELUTRA_NETWORK (a Docker network), DOCKER_GROUP (that of this host's socket).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/settings.sh
export PATH="$PWD/.venv/bin:$PATH"

kind=${1:-}
case $kind in docker | kubernetes) ;; *) echo "pool: '$kind' is no kind of pool; known: docker, kubernetes" >&2; exit 2 ;; esac
if [ -e "$settings" ]; then load_settings; fi
if [ -z "${PREFECT_API_URL:-}" ]; then
    echo "pool: PREFECT_API_URL is not set: start Prefect's server (\`make server\` or \`make ui\`) first." >&2
    exit 2
fi
export CODELUTRA_POOL=codelutra-$kind
template=$(mktemp)
trap 'rm -f "$template"' EXIT
python - "deploy/$kind-pool.json" >"$template" <<'PYTHON'
import json, os, sys
from codelutra.errors import UserError
from tasks.server import require_server
try:
    require_server()
except UserError as e:
    print(f"pool: {e}", file=sys.stderr)
    sys.exit(2)
template = json.load(open(sys.argv[1]))
variables = template["variables"]["properties"]
if image := os.environ.get("CODELUTRA_IMAGE"):
    variables["image"]["default"] = image
if "docker_group" in variables:
    socket = "/var/run/docker.sock"
    group = os.environ.get("DOCKER_GROUP") or (os.stat(socket).st_gid if os.path.exists(socket) else 0)
    variables["docker_group"]["default"] = str(group)
    kept, *others = variables["volumes"]["default"]
    variables["volumes"]["default"] = [(os.environ.get("CODELUTRA_VOLUME") or "codelutra") + ":/srv/codelutra", *others]
    if network := os.environ.get("CODELUTRA_NETWORK"):
        variables["networks"]["default"] = [network]
json.dump(template, sys.stdout)
PYTHON
prefect work-pool create "$CODELUTRA_POOL" --type "$kind" --base-job-template "$template" --overwrite
prefect --no-prompt deploy --all --prefect-file deploy/prefect.pool.yaml

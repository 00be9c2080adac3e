#!/usr/bin/env bash
# A worker: runs what Prefect's server (`make ui`) has scheduled. It reads the same settings. Put CODELUTRA_HOME and its like
# there too, where they are not set otherwise. More arguments go to `prefect worker start`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/settings.sh

if [ ! -e "$settings" ]; then
    echo "worker: there is no $settings. The first \`make ui\` writes it: start that first." >&2
    exit 2
fi
load_settings
# It asks the server, not the server's database; and a container that it starts gets all of Prefect's settings it has.
unset PREFECT_SERVER_DATABASE_CONNECTION_URL PREFECT_API_DATABASE_CONNECTION_URL
export PATH="$PWD/.venv/bin:$PATH"
exec .venv/bin/python -m tasks.worker "$@"

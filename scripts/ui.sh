#!/usr/bin/env bash
# Prefect's server and UI on this machine, behind a password. What asks the server (a worker, `prefect deploy`) reads the same
# settings:   set -a; . ~/.config/codelutra/prefect.env; set +a
#
# The first start writes them, readable for this user alone. With PREFECT_SERVER_API_HOST it listens to other machines, too.
# Where `make server` or you have put a PostgreSQL into the settings, its records are kept there; else in a SQLite file.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/settings.sh

[ -e "$settings" ] || write_settings
load_settings
port=${PREFECT_SERVER_API_PORT:-4200} host=${PREFECT_SERVER_API_HOST:-127.0.0.1}

if [ -z "${PREFECT_SERVER_API_AUTH_STRING:-}" ]; then
    echo "ui: $settings holds no PREFECT_SERVER_API_AUTH_STRING, so anybody could ask the server." \
        "Remove the file and start again: it is written anew." >&2
    exit 2
fi
if [ -n "${PREFECT_SERVER_DATABASE_CONNECTION_URL:-${PREFECT_API_DATABASE_CONNECTION_URL:-}}" ]; then
    .venv/bin/python -m tasks.database
fi
echo "UI: http://$host:$port   It asks for a password once: what stands behind PREFECT_API_AUTH_STRING= in $settings"
exec .venv/bin/prefect server start --host "$host" --port "$port"

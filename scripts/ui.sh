#!/usr/bin/env bash
# Prefect's server and UI on this machine, behind a password. What asks the server (a worker, `prefect deploy`) reads the same
# settings:   set -a; . ~/.config/codelutra/prefect.env; set +a
#
# The first start writes them, readable for this user alone.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/settings.sh

port=${PREFECT_SERVER_API_PORT:-4200}

write_settings() {
    local password
    password=codelutra:$(.venv/bin/python -c 'import secrets; print(secrets.token_urlsafe(24))')
    mkdir -p "$(dirname "$settings")"
    (
        umask 077
        cat >"$settings.$$" <<END
PREFECT_API_URL=http://127.0.0.1:$port/api
PREFECT_API_AUTH_STRING=$password
PREFECT_SERVER_API_AUTH_STRING=$password
PREFECT_SERVER_CORS_ALLOWED_ORIGINS=http://127.0.0.1:$port,http://localhost:$port
PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE=prefect.server.concurrency.lease_storage.filesystem
PREFECT_SERVER_ANALYTICS_ENABLED=false
END
    )
    mv -n "$settings.$$" "$settings" # where two start at once, the first one's password holds
    rm -f "$settings.$$"
}

[ -e "$settings" ] || write_settings
load_settings

if [ -z "${PREFECT_SERVER_API_AUTH_STRING:-}" ]; then
    echo "ui: $settings holds no PREFECT_SERVER_API_AUTH_STRING, so anybody could ask the server." \
        "Remove the file and start again: it is written anew." >&2
    exit 2
fi
echo "UI: http://127.0.0.1:$port   It asks for a password once: what stands behind PREFECT_API_AUTH_STRING= in $settings"
exec .venv/bin/prefect server start --host 127.0.0.1 --port "$port"

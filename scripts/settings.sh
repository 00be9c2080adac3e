# Sourced by ui.sh, server.sh, worker.sh and pool.sh: `load_settings` exports what ~/.config/codelutra/prefect.env says. They are lines
# NAME=value, as systemd's EnvironmentFile takes them; a variable that is set already wins. `write_settings` makes the file.
settings=${XDG_CONFIG_HOME:-$HOME/.config}/codelutra/prefect.env

load_settings() {
    local name value
    while IFS='=' read -r name value; do
        [ -z "$name" ] || [ -n "${!name+set}" ] || export "$name=$value"
    done <<<"$(grep -E '^[A-Z][A-Z0-9_]*=' "$settings")"
}

new_password() { .venv/bin/python -c 'import secrets; print(secrets.token_urlsafe(24))'; }

write_settings() {
    local password port=${PREFECT_SERVER_API_PORT:-4200}
    password=codelutra:$(new_password)
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

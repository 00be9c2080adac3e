#!/usr/bin/env bash
# Prefect's server and UI as `make ui` starts them, on PostgreSQL instead of a SQLite file: for teams with several workers.
#
# Which PostgreSQL: the one that PREFECT_SERVER_DATABASE_CONNECTION_URL (or PREFECT_API_DATABASE_CONNECTION_URL) names, in the
# environment or in the settings. Where none is named, Debian's own: as root this installs and starts it, makes a role and a
# database `codelutra`, and puts their address with a new password into the settings. Kill it at any moment and run it again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/settings.sh

say() { printf 'server: %s\n' "$*"; }
die() { printf 'server: %s\n' "$@" >&2; exit 2; }
give_one="name one that you have, in the environment or in $settings:
    PREFECT_SERVER_DATABASE_CONNECTION_URL=postgresql+asyncpg://NAME:PASSWORD@HOST:5432/DATABASE   (NAME owns DATABASE)
Or start the server without PostgreSQL: make ui"

# Debian's cluster on this port, or its newest: VERSION NAME PORT STATUS.
cluster() {
    pg_lsclusters --no-header 2>/dev/null | sort -V |
        awk -v port="${1:-}" 'port == "" || $3 == port { found = $1 " " $2 " " $3 " " $4 } END { print found }'
}

start_cluster() { # [PORT]   sets version, name and port
    local status
    read -r version name port status <<<"$(cluster "${1:-}")"
    [[ $status == down* ]] || return 0
    [ "$(id -u)" = 0 ] || die "PostgreSQL is not running; start it: sudo pg_ctlcluster $version $name start"
    say "starts PostgreSQL: pg_ctlcluster $version $name start"
    pg_ctlcluster "$version" "$name" start 8>&- || # 8 is our lock, which a daemon must not inherit
        die "PostgreSQL does not start; see /var/log/postgresql/postgresql-$version-$name.log, put it right, run this again."
}

# The address goes into the settings last: what a kill leaves before that is made again, with another password.
make_database() {
    local password
    if [ -z "$(cluster)" ]; then # says what it installs, and why it cannot
        scripts/setup.sh postgres 8>&- || { printf '%s\n' "$give_one" >&2; exit 2; }
    fi
    [ "$(id -u)" = 0 ] || die "making a database in Debian's PostgreSQL needs root. Run this as root, or $give_one"
    start_cluster
    say "makes role and database codelutra in PostgreSQL on port $port"
    password=$(new_password)
    (cd / && runuser -u postgres -- psql -X -q -o /dev/null -v ON_ERROR_STOP=1 --cluster "$version/$name" postgres) <<SQL
SELECT 'CREATE ROLE codelutra' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'codelutra') \gexec
ALTER ROLE codelutra LOGIN PASSWORD '$password';
SELECT 'CREATE DATABASE codelutra OWNER codelutra TEMPLATE template0 ENCODING ''UTF8'' LOCALE ''C.UTF-8'''
    WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'codelutra') \gexec
SQL
    (
        umask 077
        sed '$a\' "$settings" >"$settings.$$" # the last line with its end
        echo "PREFECT_SERVER_DATABASE_CONNECTION_URL=postgresql+asyncpg://codelutra:$password@127.0.0.1:$port/codelutra" \
            >>"$settings.$$"
    )
    mv "$settings.$$" "$settings"
    say "Prefect's records are kept there from now on, by \`make ui\` too. What its UI showed before stays in its SQLite file," \
        "which serves again without the line PREFECT_SERVER_DATABASE_CONNECTION_URL in $settings. Runs and store are not concerned."
}

[ -e "$settings" ] || write_settings
exec 8>>"$settings.lock"
flock 8
load_settings
url=${PREFECT_SERVER_DATABASE_CONNECTION_URL:-${PREFECT_API_DATABASE_CONNECTION_URL:-}}
case $url in
    "") make_database ;;
    postgresql+asyncpg://codelutra:*@127.0.0.1:*/codelutra) url=${url%/*} && start_cluster "${url##*:}" ;;
    postgresql*) ;;
    *) die "PREFECT_SERVER_DATABASE_CONNECTION_URL names no PostgreSQL (it begins with ${url%%:*}); $give_one" ;;
esac
exec 8>&-
exec scripts/ui.sh

#!/usr/bin/env bash
# Write systemd units of this user for Prefect's server and a worker, and say what to do with them. Nothing is started.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

units=${XDG_CONFIG_HOME:-$HOME/.config}/systemd/user
here=${PWD//%/%%} # % means something in a unit
mkdir -p "$units"
for name in codelutra-server codelutra-worker; do
    unit=$(<"deploy/$name.service")
    printf '%s\n' "${unit//@HERE@/$here}" >"$units/$name.service"
    echo "written: $units/$name.service"
done
cat <<'END_OF_TEXT'
Start both, now and after every reboot:

    systemctl --user daemon-reload
    systemctl --user enable --now codelutra-server codelutra-worker
    loginctl enable-linger "$USER"          # or they start when you log in, and end when you log out
    journalctl --user -u codelutra-worker -f

CODELUTRA_HOME, CODELUTRA_DATA and CODELUTRA_CACHE of your shell are not theirs: add them to ~/.config/codelutra/prefect.env.
END_OF_TEXT

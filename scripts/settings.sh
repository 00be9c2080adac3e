# Sourced by ui.sh and worker.sh: `load_settings` exports what ~/.config/codelutra/prefect.env says. They are lines NAME=value, as
# systemd's EnvironmentFile takes them; a variable that is set already wins.
settings=${XDG_CONFIG_HOME:-$HOME/.config}/codelutra/prefect.env

load_settings() {
    local name value
    while IFS='=' read -r name value; do
        [ -z "$name" ] || [ -n "${!name+set}" ] || export "$name=$value"
    done <<<"$(grep -E '^(PREFECT|CODELUTRA)_[A-Z_]+=' "$settings")"
}

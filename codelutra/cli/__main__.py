"""The `codelutra` command, and `python -m codelutra.cli`. Ctrl-C ends it quietly from its first moment on."""

import sys


def main() -> None:
    try:
        from codelutra.cli.app import main as command
    except KeyboardInterrupt:
        sys.exit(130)
    command()


if __name__ == "__main__":
    main()

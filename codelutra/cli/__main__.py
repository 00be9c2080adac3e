"""`python -m codelutra.cli` is the `codelutra` command."""

from codelutra.cli.app import main

main()

"""The `codelutra` command."""

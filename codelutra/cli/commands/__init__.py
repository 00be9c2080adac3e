"""The commands; each module has some that belong together. `cli/app.py` lists all, in the groups of `codelutra --help`."""

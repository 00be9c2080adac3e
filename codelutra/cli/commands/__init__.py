"""The commands, a module a group of `codelutra --help`. `cli/app.py` lists them."""

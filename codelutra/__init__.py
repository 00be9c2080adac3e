"""codelutra: makes a small open model better at one code task, from its own right and wrong programs."""

__version__ = "0.2.0"

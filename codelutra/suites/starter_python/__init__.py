"""starter-python: hand-written functions (`library/`) and one-line pipelines, made into problems by `suite.py`."""

"""Data sets of problems with a way to judge an answer. `base.py` says what a suite is and finds it by name."""

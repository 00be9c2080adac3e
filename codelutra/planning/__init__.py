"""Estimates before anything is spent: does a run fit this machine, and how long will it take? `plan.py` puts it together."""

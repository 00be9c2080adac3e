"""Perturbed copies of a suite's SQLite files: a wrong query that is right by luck on one database is wrong on a copy."""

"""DuckDB files as a suite's databases: `files.py` asks, `worker.py` reads them in a process of its own."""

import sqlite3
from pathlib import Path

c = sqlite3.connect("db.sqlite")
c.execute("CREATE TABLE t (a)")
c.execute("INSERT INTO t VALUES (1)")
c.commit()
c.close()
Path("raw.jsonl").write_bytes(
    b'{"id": 17, "question": "a?", "query": "SELECT a FROM t", "database": null, '
    b'"difficulty": null, "group": null, "split": "train"}\n'
)

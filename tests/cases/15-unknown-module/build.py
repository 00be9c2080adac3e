import sqlite3

c = sqlite3.connect("db.sqlite")
c.executescript("CREATE TABLE town (id INTEGER PRIMARY KEY, name TEXT); INSERT INTO town VALUES (1,'Ely'),(2,'Rye');")
c.execute("PRAGMA writable_schema=ON")
c.execute(
    "INSERT INTO sqlite_master VALUES ('table','SpatialIndex','SpatialIndex',0,"
    "'CREATE VIRTUAL TABLE SpatialIndex USING VirtualSpatialIndex()')"
)
c.commit()
c.close()

"""Write library.sqlite beside this file: a town library of three branches, made up, the same every time.

python docs/example/library/build.py [FILE]
"""

from __future__ import annotations

import random
import sqlite3
import sys
from contextlib import closing
from datetime import date, timedelta
from pathlib import Path

TABLES = """
CREATE TABLE branch (id INTEGER PRIMARY KEY, name TEXT NOT NULL, district TEXT NOT NULL, opened INTEGER NOT NULL);
CREATE TABLE author (id INTEGER PRIMARY KEY, name TEXT NOT NULL, country TEXT, born INTEGER);
CREATE TABLE book (id INTEGER PRIMARY KEY, title TEXT NOT NULL, author_id INTEGER NOT NULL REFERENCES author (id),
                   genre TEXT NOT NULL, year INTEGER NOT NULL, pages INTEGER NOT NULL);
CREATE TABLE copy (id INTEGER PRIMARY KEY, book_id INTEGER NOT NULL REFERENCES book (id),
                   branch_id INTEGER NOT NULL REFERENCES branch (id), condition TEXT NOT NULL);
CREATE TABLE member (id INTEGER PRIMARY KEY, name TEXT NOT NULL, district TEXT NOT NULL, joined TEXT NOT NULL, email TEXT);
CREATE TABLE loan (id INTEGER PRIMARY KEY, copy_id INTEGER NOT NULL REFERENCES copy (id),
                   member_id INTEGER NOT NULL REFERENCES member (id), lent TEXT NOT NULL, due TEXT NOT NULL, returned TEXT,
                   fine REAL NOT NULL);
"""
BRANCHES = [("Harbour", "Docks", 1931), ("Old Mill", "North", 1968), ("Station", "Centre", 2009)]
AUTHORS = [
    ("Ilse Brandt", "Germany", 1921),
    ("Tomás Rivera", "Chile", 1948),
    ("Akua Mensah", "Ghana", 1963),
    ("Jun Takeda", "Japan", 1955),
    ("Nora Lindqvist", "Sweden", 1979),
    ("Pavel Dušek", "Czechia", 1934),
    ("Leïla Haddad", "Tunisia", 1982),
    ("Grace O'Neill", "Ireland", 1940),
    ("Ravi Menon", "India", 1971),
    ("Anonymous", None, None),
]
BOOKS = [
    ("The Salt Ledger", 0, "novel", 1958, 312),
    ("Winter Timetable", 0, "novel", 1964, 248),
    ("Letters to a Lighthouse", 0, "poetry", 1971, 96),
    ("The Copper Road", 1, "novel", 1983, 420),
    ("Rain on the Atacama", 1, "travel", 1991, 276),
    ("Market Day", 2, "novel", 1994, 350),
    ("Weaving Numbers", 2, "science", 2003, 198),
    ("The Drum and the Clock", 2, "history", 2011, 288),
    ("Seven Gardens", 3, "poetry", 1988, 120),
    ("The Paper Lantern", 3, "crime", 1997, 334),
    ("Night Ferry", 3, "crime", 2002, 367),
    ("Night Ferry Returns", 3, "crime", 2005, 389),
    ("North of Summer", 4, "novel", 2010, 301),
    ("The Quiet Glacier", 4, "science", 2016, 224),
    ("Bread and Iron", 5, "history", 1969, 512),
    ("A Clerk in Brno", 5, "novel", 1975, 266),
    ("Orange Blossom Street", 6, "novel", 2014, 318),
    ("The Cartographer's Niece", 6, "crime", 2019, 402),
    ("Peat", 7, "poetry", 1973, 88),
    ("The Long Strand", 7, "novel", 1979, 445),
    ("Tide Tables", 7, "science", 1986, 154),
    ("The Monsoon Engine", 8, "science", 2008, 362),
    ("Second Class to Madurai", 8, "travel", 2012, 240),
    ("Riddles of the Coast", 9, "poetry", 1902, 64),
    ("The Bell Founder", 9, "history", 1899, 180),
]
GIVEN = [
    "Ada",
    "Ben",
    "Carla",
    "Dino",
    "Elif",
    "Frida",
    "Goran",
    "Hana",
    "Ivo",
    "Jana",
    "Karim",
    "Lotte",
    "Milo",
    "Nadia",
    "Otto",
    "Petra",
    "Quinn",
    "Rosa",
    "Samir",
    "Tilda",
]
FAMILY = ["Abel", "Bauer", "Costa", "Demir", "Evers", "Fischer", "Green", "Hansen", "Ito", "Jansen"]
DISTRICTS = ("Docks", "North", "Centre", "Hill")


def rows() -> dict[str, list[tuple[object, ...]]]:
    """What each table holds, in order."""
    chance = random.Random(1931)
    copies = [
        (book, branch, chance.choice(("new", "good", "good", "worn")))
        for book in range(1, len(BOOKS) + 1)
        for branch in sorted(chance.sample((1, 2, 3), chance.randint(1, 3)))
    ]
    members: list[tuple[object, ...]] = []
    for number in range(40):
        name = f"{GIVEN[number % 20]} {FAMILY[(number * 7) % 10]}"
        joined = date(2018, 1, 10) + timedelta(days=chance.randrange(2300))
        email = None if chance.random() < 0.25 else f"{name.split()[0].lower()}{number}@example.org"
        members.append((name, chance.choice(DISTRICTS), joined.isoformat(), email))
    loans: list[tuple[object, ...]] = []
    for _ in range(240):
        lent = date(2023, 1, 2) + timedelta(days=chance.randrange(720))
        due = lent + timedelta(days=28)
        kept = chance.choice((5, 12, 20, 27, 28, 35, 50))
        back = None if lent > date(2024, 11, 15) and chance.random() < 0.6 else lent + timedelta(days=kept)
        fine = round(0.2 * max(0, kept - 28), 2) if back else 0.0
        loans.append(
            (
                chance.randint(1, len(copies)),
                chance.randint(1, 36),
                lent.isoformat(),
                due.isoformat(),
                back and back.isoformat(),
                fine,
            )
        )
    books = [(title, author + 1, *rest) for title, author, *rest in BOOKS]
    return {"branch": BRANCHES, "author": AUTHORS, "book": books, "copy": copies, "member": members, "loan": loans}  # type: ignore[dict-item]


def build(path: Path) -> None:
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(TABLES)
        for table, content in rows().items():
            marks = ", ".join("?" * (len(content[0]) + 1))
            connection.executemany(f"INSERT INTO {table} VALUES ({marks})", [(i, *row) for i, row in enumerate(content, 1)])


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("library.sqlite"))

"""Claim: `suite.shown_schema: linked` shows most of what references read, and less of the schema.

    python -m benchmarks.linking [--bird DIR] [--out docs/results/linking.json]

All problems of starter-sql, of Spider (in $CODELUTRA_DATA) and, with --bird, of a BIRD folder with its hints: the shares of
the tables and columns that references read, as SQLite tells, which the cut prompts show. No model is asked.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from codelutra.config import SuiteSection
from codelutra.suites.base import open_suite
from codelutra.suites.linking import VERSION, linked, recall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bird", type=Path)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    sections = [SuiteSection(name="starter-sql"), SuiteSection(name="spider")]
    sections += [SuiteSection(name="bird", path=str(asked.bird))] if asked.bird else []
    found = {}
    for suite in map(open_suite, sections):
        full, files = suite.problems(), suite.databases()
        found[suite.name] = {"databases": len(files), **recall(full, linked(full, files), files)}
        print(suite.name, found[suite.name], flush=True)
    if asked.out:
        asked.out.write_text(json.dumps({"linking": VERSION, "suites": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()

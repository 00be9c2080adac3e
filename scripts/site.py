"""Hooks of mkdocs: README.md and CONTRIBUTING.md become pages of the site, and links to code become names.

The pages are written for the repository, where a link may lead to any file. Of those the site has only the ones in docs/.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md"}
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)")


def on_files(files: Files, config: Any) -> Files:
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    if page.file.src_uri in PAGES.values():
        markdown = markdown.replace("](docs/", "](")
        for source, name in PAGES.items():
            markdown = markdown.replace(f"]({source}", f"]({name}")
    return _LINK.sub(_of_the_site, markdown)


def _of_the_site(link: re.Match[str]) -> str:
    """The link, or its text alone where it leads to a file that the site has not."""
    text, target = link[1], link[2]
    for source, name in PAGES.items():
        if target.partition("#")[0] == f"../{source}":
            return f"[{text}]({target.replace(f'../{source}', name)})"
    return text if target.startswith("../") and not target.startswith("../docs") else link[0]

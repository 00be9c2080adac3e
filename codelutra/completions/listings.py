"""What a listing adds to a program's lines: the prompts of a session and its output, numbers, the marks of a diff,
a shell's `cat`."""

from __future__ import annotations

import re

# (what the first line of a statement begins with, what its further lines begin with); other lines are output
_SESSIONS = [
    (re.compile(first), re.compile(further))
    for first, further in (
        (r"[ \t]*>>>(?: |$)", r"[ \t]*\.\.\.(?: |$)"),
        (r"In ?\[\d+\]: ?", r" +\.\.\.: ?"),
        (r"(?:sqlite|mysql|MariaDB \[\w*\]|SQL)> |\w+=[#>] ", r"(?: +\.{3}|[ \d]+-?|\w+-)[>#] "),
    )
]
_NUMBER = re.compile(r"[ \t]*(\d{1,4})(?:[ \t]*[|:│]|(?=[ \t]|$))[ \t]?")
_SHOWN = re.compile(r"[ \t]*(?:[$#%] )?cat (?:[^\s<>|]+[ \t]*$|(?=.*<<-?[ \t]*['\"]?(?P<until>\w+)))")
_TAB = re.compile(r"[ \t]*(\d{1,4})\t")


def unlisted(lines: list[str], tag: str = "") -> list[str]:
    """The lines of the program alone; the lines as they are where they are no listing."""
    at = next((n for n, line in enumerate(lines) if line and not line.isspace()), len(lines))
    if at == len(lines):
        return lines
    if tag.lower() in ("diff", "patch"):
        return _patched(lines)
    for first, further in _SESSIONS:
        if first.match(lines[at]):
            said = [(first.match(line) or further.match(line), line) for line in lines]
            return [line[prompt.end() :] for prompt, line in said if prompt]
    if shown := _SHOWN.match(lines[at]):
        end = next((n for n in range(at + 1, len(lines)) if lines[n].strip() == shown["until"]), len(lines))
        return lines[at + 1 : end]
    return _unnumbered(lines[at:])


def _patched(lines: list[str]) -> list[str]:
    """What a diff leads to."""
    head = ("--- ", "+++ ", "@@", "diff ", "index ", "-", "\\ No newline")
    return [line[line[:1] in ("+", " ") :] for line in lines if not line.startswith(head)]


def _unnumbered(lines: list[str]) -> list[str]:
    """Lines that are numbered from 1 or more, without their numbers."""
    mark = _TAB if _TAB.match(lines[0]) else _NUMBER
    numbers, filled = [mark.match(line) for line in lines], [line for line in lines if line.strip()]
    found = [number for number in numbers if number]
    if len(found) < 2 or len(found) != len(filled):
        return lines
    given = [int(number[1]) for number in found]
    if given != list(range(given[0], given[0] + len(given))):
        return lines
    rest = [line[number.end() :] if number else line for number, line in zip(numbers, lines, strict=True)]
    return rest if any(map(str.strip, rest)) else lines

"""A Python program in several blocks: a helper in one, what calls it in another, and prose between them."""

from __future__ import annotations

import ast
import builtins
import warnings
from collections.abc import Sequence
from typing import NamedTuple

from codelutra.completions.looks import DEFINES, LONGEST

_MOST = 12  # blocks that are looked at
_BUILTINS = frozenset(dir(builtins)) | {"__name__", "__file__", "__doc__"}


class _Part(NamedTuple):
    gives: frozenset[str]  # what its module has at the end
    needs: frozenset[str]  # names that it uses and neither binds anywhere nor finds in Python


def with_needed(blocks: Sequence[str], at: int) -> str:
    """The block number `at`, before it the blocks that define what it uses, and behind it those that use what it defines.

    Only blocks that precede it in the answer: what follows is usage.
    """
    first = max(0, at - _MOST)
    near = blocks[first : at + 1]
    if len(near) < 2 or sum(map(len, near)) > LONGEST or not (own := _part(near[-1])):
        return blocks[at]
    parts = {i: part for i in range(len(near) - 1) if (part := _part(near[i]))}
    before, behind, gives, needs = {len(near) - 1}, set[int](), own.gives, own.needs
    for _ in near:  # until nothing more is needed
        left = sorted(parts.keys() - before - behind, reverse=True)
        found = next((i for i in left if parts[i].gives & (needs - gives)), None)
        if found is not None:
            before.add(found)
        else:  # it may call what it needs at once, and tests of the model's own are no part of the program
            callers = [i for i in left if parts[i].needs & gives and not parts[i].gives & gives and DEFINES.search(near[i])]
            found = next((i for i in callers if "assert" not in near[i]), None)
            if found is None:
                break
            behind.add(found)
        gives, needs = gives | parts[found].gives, needs | parts[found].needs
    return "\n\n".join(near[i] for i in (*sorted(before), *sorted(behind)))


def _part(block: str) -> _Part | None:
    """None where it is no Python."""
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(block)
            nodes = list(ast.walk(tree))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    bound, used = set[str](), set[str]()
    for node in nodes:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                bound.add(node.name)
            case ast.arg():
                bound.add(node.arg)
            case ast.alias():
                bound.add((node.asname or node.name).partition(".")[0])
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                bound.add(name)
            case ast.Name(ctx=ast.Load()):
                used.add(node.id)
            case ast.Name():
                bound.add(node.id)
    return _Part(frozenset(n for s in tree.body for n in _given(s)), frozenset(used - bound - _BUILTINS))


def _given(statement: ast.stmt) -> list[str]:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return [(a.asname or a.name).partition(".")[0] for a in statement.names]
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return [n.id for t in targets if t for n in ast.walk(t) if isinstance(n, ast.Name)]

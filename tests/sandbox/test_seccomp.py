"""The filter itself, run by a small model of the kernel's machine: here for both processors, in containers for one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.runner import seccomp
from sandbox.runner.seccomp import ABSENT, ALLOW, ANY_BIT, EQUAL, LOAD, MACHINES, REFUSE, RETURN

HEADERS = {"x86_64": "/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "aarch64": "/usr/include/asm-generic/unistd.h"}
NAMED = {
    "sched_setparam": 142,
    "sched_setscheduler": 144,
    "sched_setaffinity": 203,
    "sched_setattr": 314,
    "setpriority": 141,
}


def decided(machine: str, number: int, *arguments: int, architecture: int = 0) -> int:
    """What the filter says to a system call."""
    audit, column = MACHINES[machine]
    code = list(seccomp.instructions(audit, column))
    data = {seccomp.NUMBER: number, seccomp.ARCHITECTURE: architecture or audit}
    data |= {seccomp.ARGUMENTS + 8 * i: value & 0xFFFFFFFF for i, value in enumerate((*arguments, 0, 0, 0))}
    at = accumulator = 0
    while True:
        kind, yes, no, operand = code[at]
        assert max(yes, no) <= 255
        at += 1
        if kind == LOAD:
            accumulator = data[operand]
        elif kind == RETURN:
            return operand
        else:
            holds = {EQUAL: accumulator == operand, ANY_BIT: bool(accumulator & operand)}.get(kind, accumulator > operand)
            at += yes if holds else no


def numbers(machine: str) -> dict[str, int]:
    words, column = seccomp.DENIED.split(), MACHINES[machine][1]
    listed = {words[i]: int(words[i + 1 + column]) for i in range(0, len(words), 3) if words[i + 1 + column] != "-"}
    own = {pair[0]: pair for pair in seccomp.ON_ITSELF}
    listed |= {name: own[number][column] for name, number in NAMED.items()}
    return listed | {name: pair[column] for name, pair in seccomp.SPECIAL.items()}


@pytest.mark.parametrize("machine", HEADERS)
def test_the_numbers_are_the_kernels(machine: str) -> None:
    if not Path(HEADERS[machine]).exists():
        pytest.skip("no kernel headers here (linux-libc-dev)")
    found = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)\s", Path(HEADERS[machine]).read_text())
    kernels = {name: int(number) for name, number in found}
    known = {name: number for name, number in numbers(machine).items() if name in kernels}
    assert known == {name: kernels[name] for name in known}
    assert len(known) > 60


@pytest.mark.parametrize("machine", MACHINES)
@given(st.data())
def test_what_is_not_listed_is_allowed_and_what_is_listed_is_not(machine: str, data: st.DataObject) -> None:
    listed = numbers(machine)
    special = {*seccomp.SPECIAL, *NAMED}
    number = data.draw(st.one_of(st.integers(0, 600), st.sampled_from(sorted(listed.values()))))
    arguments = data.draw(st.tuples(*[st.integers(0, 2**64 - 1)] * 3))
    said = decided(machine, number, *arguments)
    names = {name for name, of in listed.items() if of == number}
    if not names:
        assert said == ALLOW
    elif not names & special:
        assert said == REFUSE
    assert decided(machine, number, architecture=0x40000003) == REFUSE  # a 32-bit program's call
    assert decided(machine, 0x40000000 + number) == REFUSE


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    ("name", "arguments", "verdict"),
    [
        ("socket", (1, 1, 0), ALLOW),
        ("socket", (2, 1, 6), ALLOW),
        ("socket", (10, 2, 17), ALLOW),
        ("socket", (40, 1, 0), REFUSE),
        ("socket", (0, 1, 0), REFUSE),
        ("socket", (2, 1, 132), REFUSE),
        ("socket", (2, 1, 262), REFUSE),
        ("socketpair", (1, 1, 0), ALLOW),
        ("socketpair", (30, 1, 0), REFUSE),
        ("clone", (0x1200011, 0, 0), ALLOW),  # fork
        ("clone", (0x3D0F00, 0, 0), ALLOW),  # a thread
        ("clone", (0x10000000 | 17, 0, 0), REFUSE),  # a user namespace
        ("clone", (0x00020000 | 17, 0, 0), REFUSE),  # a mount namespace
        ("clone3", (1, 88, 0), ABSENT),
        ("prctl", (15, 1, 0), ALLOW),  # its name
        ("prctl", (4, 0, 0), REFUSE),
        ("prctl", (4, 1, 0), REFUSE),
        ("sched_setaffinity", (0, 8, 1), ALLOW),
        ("sched_setaffinity", (7, 8, 1), REFUSE),
        ("sched_setscheduler", (2**32 + 7, 5, 1), REFUSE),
        ("setpriority", (0, 0, 19), ALLOW),  # nice
        ("setpriority", (0, 7, 19), REFUSE),
        ("setpriority", (2, 0, 19), REFUSE),  # all processes of its user
    ],
)
def test_some_calls_depend_on_what_they_are_for(machine: str, name: str, arguments: tuple[int, ...], verdict: int) -> None:
    assert decided(machine, numbers(machine)[name], *arguments) == verdict

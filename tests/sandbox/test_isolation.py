"""What a program can see and keep: nothing of its neighbours, nothing of the runner, no powers."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox import Pool, PythonJob, SqlJob
from sandbox.attacks import RIGHT_QUERY

SECRET = "otter" * 3 + "7f3a"
SEARCH = """
import ctypes, re
needle = re.compile(b'o[t]ter' * 3 + b'7f[3]a')  # not the secret itself: that would find itself
def found():
    hits = 0
    with open('/proc/self/maps') as maps:
        for line in maps:
            span, rights, *_ = line.split()
            if rights[0] != 'r' or '[v' in line:
                continue
            start, end = (int(part, 16) for part in span.split('-'))
            hits += len(needle.findall(ctypes.string_at(start, end - start)))
    return hits
"""


def values(pool: Pool, program: str, *calls: str) -> list[Any]:
    (result,) = pool.map([PythonJob("p", program, calls)])
    assert result.status == "ok", result.error
    return [item.get("value", item.get("error")) for item in result.value]


def test_nothing_of_a_neighbouring_job_is_in_a_programs_memory(pool: Pool, database: str) -> None:
    neighbours = [PythonJob(f"n{i}", f"def f(): return '{SECRET}'", ("f()",)) for i in range(20)]
    queries = [SqlJob("q", database, f"{RIGHT_QUERY} -- {SECRET}")]
    spy = PythonJob("spy", SEARCH, ("found()",), timeout_seconds=20)
    results = list(pool.map([*neighbours, *queries, spy, *neighbours, spy]))
    assert [r.value for r in results if r.id == "spy"] == [[{"value": 0}]] * 2


def test_the_search_would_find_the_secret(pool: Pool) -> None:
    (hits,) = values(pool, f"here = '{SECRET}'\n" + SEARCH, "found()")
    assert hits > 0


def test_a_program_starts_in_an_empty_directory_alone(pool: Pool) -> None:
    mess = PythonJob(
        "mess",
        "import os\nos.makedirs('a/b')\nopen('/tmp/f', 'w').write('x')\nif os.fork() == 0:\n  import time; time.sleep(99)",
        ("1",),
    )
    look = """
import os
def alone():
    real = [open(f'/proc/{p}/status').read().split('Uid:')[1].split()[0] for p in os.listdir('/proc') if p.isdigit()]
    return real.count(str(os.getuid()))
"""
    first, second = pool.map([mess, PythonJob("look", look, ("os.listdir('.')", "os.getcwd()", "alone()"))])
    assert first.status == "ok"
    assert second.value == [{"value": []}, {"value": "/box/w"}, {"value": 1}]


def test_a_program_has_no_powers(pool: Pool) -> None:
    status, groups, session = values(
        pool, "import os", "open('/proc/self/status').read()", "os.getgroups()", "os.getsid(0) == os.getpid()"
    )
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["CapEff"] == fields["CapPrm"] == fields["CapInh"] == fields["CapAmb"] == "0" * 16
    assert fields["NoNewPrivs"] == "1"
    assert fields["Seccomp"] == "2"
    assert len(set(fields["Uid"].split())) == 1
    assert int(fields["Seccomp_filters"]) >= 2  # the runner's beside Docker's
    mapped = any("userns" in option or "rootless" in option for option in pool.client.info()["SecurityOptions"])
    assert int(fields["Uid"].split()[0]) >= (10_000 if mapped else 0x70000000)  # no user of the host
    assert groups == []
    assert session is True


def test_a_program_holds_only_its_own_files(pool: Pool) -> None:
    (files,) = values(
        pool,
        "import os\ndef f(): return sorted(os.readlink('/proc/self/fd/' + n) for n in os.listdir('/proc/self/fd')[:-1])",
        "f()",
    )
    assert [name.split(" ")[0] for name in files] == ["/dev/null", "/memfd:result", "/memfd:stderr", "/memfd:stdout"]


def test_the_environment_says_nothing_about_the_runner(pool: Pool) -> None:
    (environment,) = values(pool, "import os", "dict(os.environ)")
    assert not [name for name in environment if "CODELUTRA" in name]
    assert environment["HOME"] == environment["TMPDIR"] == "/box/w"


def test_the_file_system_is_read_only_but_for_the_programs_directory(pool: Pool) -> None:
    program = """
import os
def writable():
    found = []
    for top, folders, _ in os.walk('/'):
        folders[:] = [f for f in folders if top != '/' or f not in ('proc', 'sys')]
        if os.access(top, os.W_OK):
            try:
                open(os.path.join(top, 'probe'), 'w').close()
                found.append(top)
            except OSError:
                pass
    return found
"""
    assert values(pool, program, "sorted(writable())") == [["/box/w", "/dev/shm"]]


def test_there_is_no_set_user_id_program_in_the_image(pool: Pool) -> None:
    program = "import os\ndef f():\n  return [os.path.join(t, n) for t, _, ns in os.walk('/usr') for n in ns if os.lstat(os.path.join(t, n)).st_mode & 0o6000]"  # noqa: E501
    assert values(pool, program, "f()") == [[]]


def test_only_the_loopback_interface_exists(pool: Pool) -> None:
    assert values(pool, "import os", "os.listdir('/sys/class/net')") == [["lo"]]


TALK = """
import os, signal, socket, struct, sys, time
family, who = (socket.AF_INET6, '::1') if {v6} else (socket.AF_INET, '127.0.0.1')
def bound():
    s = socket.socket(family)
    s.bind((who, 5000))
    s.listen()
    return s
def talk():
    server = bound()
    client = socket.create_connection((who, 5000))
    return server, client, server.accept()[0]
server, client, connection = talk()
"""
PARTINGS = {
    "the server closes first": "connection.close(); client.close(); server.close()",
    "the client closes first": "client.close(); connection.close(); server.close()",
    "one half": "client.shutdown(socket.SHUT_WR); connection.recv(1)",
    "unread data": "client.sendall(b'x' * 10000); connection.sendall(b'y' * 10000)",
    "a full buffer": "client.setblocking(False)\ntry:\n  while True: client.send(b'x' * 65536)\nexcept OSError: pass",
    "killed": "client.sendall(b'x'); os.kill(os.getpid(), signal.SIGKILL)",
    "a child that holds on": "if os.fork() == 0: time.sleep(60)",
    "not accepted": "more = [socket.create_connection((who, 5000)) for _ in range(9)]",
}


@pytest.mark.parametrize("v6", [False, True])
@pytest.mark.parametrize("parting", PARTINGS)
def test_a_port_is_free_for_the_next_program(parting: str, v6: bool, pool: Pool) -> None:
    first = PythonJob("first", TALK.replace("{v6}", str(v6)) + PARTINGS[parting], ("1",))
    next_one = PythonJob("next", TALK.replace("{v6}", str(v6)), ("1",))
    talked, again = pool.map([first, next_one])
    assert talked.status == ("runtime_error" if parting == "killed" else "ok"), talked.error
    assert again.value == [{"value": 1}], again.error


def test_no_memory_is_shared_with_the_runner(pool: Pool) -> None:
    shared = "[line for line in open('/proc/self/maps') if 's' in line.split()[1] and 'w' in line.split()[1]]"
    assert values(pool, "pass", shared) == [[]]
    one_of_its_own = "import mmap\nm = mmap.mmap(-1, 4096)"
    assert len(values(pool, one_of_its_own, shared)[0]) == 1


def test_no_process_of_the_runner_can_be_scheduled_by_a_program(pool: Pool) -> None:
    program = """
import os
def users():
    of = {}
    for pid in os.listdir('/proc'):
        if pid.isdigit() and int(pid) != os.getpid():
            of[pid] = set(open(f'/proc/{pid}/status').read().split('Uid:')[1].split()[:4])
    return [len(of), sum(str(os.getuid()) in ids for ids in of.values())]
"""
    ((others, mine),) = values(pool, program, "users()")
    assert others >= 4
    assert mine == 0


def test_the_databases_of_queries_are_closed_to_programs(pool: Pool, database: str) -> None:
    query = SqlJob("q", database, RIGHT_QUERY)
    look = PythonJob("look", "import os", ("os.listdir('/box/db')", f"open('/box/db/{database}')"))
    answer, seen = pool.map([query, look])
    assert answer.status == "ok"
    assert [item["error"].split(":")[0] for item in seen.value] == ["PermissionError"] * 2


def test_queries_cannot_be_seen_from_a_program_and_leave_nothing(pool: Pool, database: str) -> None:
    tries = [
        "create temp table singer as select 9 id, 'Zoe' name, 99 age",
        "attach ':memory:' as x",
        "pragma query_only=0",
        "delete from singer",
    ]
    results = list(pool.map([*(SqlJob(t, database, t) for t in tries), SqlJob("after", database, RIGHT_QUERY)]))
    assert {r.status for r in results[:-1]} == {"blocked"}
    assert results[-1].value["rows"] == [["Ada"], ["Bo"]]


HOARD = """
import os, time
children = []
for _ in range(12):
    children.append(os.fork())
    if not children[-1]:
        hoard = bytearray(60 << 20)
        hoard[::4096] = b"x" * len(hoard[::4096])
        time.sleep(1)
        os._exit(0)
ends = [os.waitpid(child, 0)[1] for child in children]
"""


def test_what_one_program_has_run_out_of_is_not_said_of_the_next(pool: Pool) -> None:
    hoarded, killed = pool.map(
        [
            PythonJob("hoards", HOARD, ("any(end == 9 for end in ends)",), timeout_seconds=20),
            PythonJob("is killed", "import os\nos.kill(os.getpid(), 9)"),
        ]
    )
    assert hoarded.status == "resource_limit" or hoarded.value == [{"value": True}], hoarded
    assert (killed.status, killed.error) == ("runtime_error", "killed by SIGKILL "), killed

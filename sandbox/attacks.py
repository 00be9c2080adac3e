"""Programs and queries that try to be judged correct without being right, or to spoil the sandbox for others.

Data only: `probe.py` and the tests run them through the real thing. All Python attacks pretend to solve one problem,
`solve(n) == 7 * n + 3`, for the numbers in CALLS; what they would have to answer is in EXPECTED, on the host.
"""

from __future__ import annotations

from typing import NamedTuple

CALLS = ("solve(3)", "solve(10)", "solve(-1)")
EXPECTED = [{"value": 24}, {"value": 73}, {"value": -4}]
RIGHT = "def solve(n):\n    return 7 * n + 3\n"
WRONG = "def solve(n):\n    return 7 * n\n"

SCHEMA = """
create table singer(id integer primary key, name text, age int);
insert into singer values (1, 'Ada', 36), (2, 'Bo', 52), (3, 'Cy', null), (4, 'Di', 29);
create table song(id integer primary key, singer int references singer(id), title text, plays int);
insert into song values (1, 1, 'One', 10), (2, 1, 'Two', 20), (3, 2, 'Three', 5), (4, 4, 'Four', 0);
"""
RIGHT_QUERY = "select name from singer where age > 30 order by name"
EXPECTED_ROWS = [["Ada"], ["Bo"]]
WRONG_QUERY = "select name from singer order by name"


class Attack(NamedTuple):
    """`statuses` are what it may come to, "" for any that is not correct; never infra_error."""

    name: str
    kind: str  # a row of the threat model
    source: str
    statuses: str = ""
    timeout_seconds: float = 2.0
    calls: tuple[str, ...] = CALLS


SOLVE = "\ndef solve(n):\n    return 0\n"

EQUALITY = [
    ("an object equal to everything", "class E:\n  def __eq__(s, o): return True\n  __hash__ = None\ndef solve(n): return E()"),
    ("an int that equals everything", "class E(int):\n  def __eq__(s, o): return True\n  __hash__ = int.__hash__\ndef solve(n): return E(0)"),
    ("a str that equals everything", "class E(str):\n  def __eq__(s, o): return True\n  __hash__ = str.__hash__\ndef solve(n): return E('0')"),
    ("a list that equals everything", "class E(list):\n  def __eq__(s, o): return True\ndef solve(n): return E()"),
    ("a dict that equals everything", "class E(dict):\n  def __eq__(s, o): return True\ndef solve(n): return E()"),
    ("a float for an int", "def solve(n): return float(7 * n + 3)"),
    ("text for an int", "def solve(n): return str(7 * n + 3)"),
    ("not a number", "def solve(n): return float('nan')"),
    ("a right int in a subclass", "class E(int): pass\ndef solve(n): return E(7 * n + 3)"),
    ("an object that says it is an int", "class E:\n  __class__ = int\n  def __int__(s): return 24\ndef solve(n): return E()"),
    ("a class whose metaclass lies", "class M(type):\n  def __eq__(s, o): return True\n  __hash__ = type.__hash__\nclass E(metaclass=M): pass\ndef solve(n): return E"),
    ("a generator of right answers", "def solve(n): yield 7 * n + 3"),
    ("a lazy proxy", "class E:\n  def __getattr__(s, k): return lambda *a: True\ndef solve(n): return E()"),
    ("a mock", "from unittest.mock import MagicMock\ndef solve(n): return MagicMock()"),
    ("the right answer as a one-element list", "def solve(n): return [7 * n + 3]"),
]  # fmt: skip

READ_EXPECTED = [
    ("walk the frames", "import sys\ndef solve(n):\n  f = sys._getframe()\n  while f:\n    for v in list(f.f_locals.values()):\n      if isinstance(v, list) and v and isinstance(v[0], dict) and 'value' in v[0]: return v[0]['value']\n    f = f.f_back\n  return None"),
    ("walk the heap", "import gc\ndef solve(n):\n  for o in gc.get_objects():\n    if isinstance(o, dict) and o.get('value') in (24, 73, -4): return o['value']"),
    ("look for an expected name", "import sys\ndef solve(n):\n  for m in list(sys.modules.values()):\n    for k in ('expected', 'EXPECTED', 'answer', 'reference'):\n      if hasattr(m, k): return getattr(m, k)"),
    ("read every process's memory", "import os\ndef solve(n):\n  for p in os.listdir('/proc'):\n    if p.isdigit() and int(p) != os.getpid():\n      try: return open(f'/proc/{p}/mem', 'rb').read(10)\n      except OSError: pass"),
    ("read every process's files", "import os\ndef solve(n):\n  found = []\n  for p in os.listdir('/proc'):\n    if p.isdigit() and int(p) != os.getpid():\n      try: found += [os.readlink(f'/proc/{p}/fd/{f}') for f in os.listdir(f'/proc/{p}/fd')]\n      except OSError: pass\n  return found or None"),
    ("read every process's environment", "import os\ndef solve(n):\n  for p in os.listdir('/proc'):\n    if p.isdigit() and int(p) != os.getpid():\n      try: return open(f'/proc/{p}/environ').read()\n      except OSError: pass"),
    ("import the judge", "import sandbox.attacks\ndef solve(n): return sandbox.attacks.EXPECTED[0]['value']"),
    ("search the disk for the answers", "import os\ndef solve(n):\n  for d, _, fs in os.walk('/opt'):\n    for f in fs:\n      if 'attack' in f or 'expected' in f: return open(os.path.join(d, f)).read()"),
    ("read the databases of SQL jobs", "import os\ndef solve(n):\n  return [open('/box/db/' + f, 'rb').read(20) for f in os.listdir('/box/db')]"),
]  # fmt: skip

EXITS = [
    ("sys.exit(0) at once", "import sys\nsys.exit(0)", "runtime_error"),
    ("sys.exit(0) in the call", "import sys\ndef solve(n): sys.exit(0)"),
    ("os._exit(0)", "import os\ndef solve(n): os._exit(0)", "runtime_error"),
    ("raise SystemExit", "raise SystemExit", "runtime_error"),
    ("an exit handler that prints success", "import atexit\natexit.register(print, 'ok 24 73 -4')" + SOLVE),
    ("die by SIGKILL", "import os\nos.kill(os.getpid(), 9)", "runtime_error"),
    ("abort", "import os\nos.abort()", "runtime_error"),
    ("segmentation fault", "import ctypes\nctypes.string_at(0)", "runtime_error"),
    ("become another program", "import os\nos.execv('/bin/echo', ['echo', '24'])", "runtime_error"),
    ("raise KeyboardInterrupt", "raise KeyboardInterrupt", "runtime_error"),
    ("an exception whose text never ends", "class E(Exception):\n  def __str__(s):\n    while True: pass\nraise E", "timeout"),
    ("an exception whose text raises", "class E(Exception):\n  def __str__(s): raise E\n  __repr__ = __str__\nraise E", "runtime_error"),
    ("a base exception of its own", "class E(BaseException): pass\ndef solve(n): raise E('correct')"),
    ("stack overflow in C", "import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()", "runtime_error resource_limit timeout"),
]  # fmt: skip

HARNESS = [
    ("replace json", "import json\njson.dumps = lambda *a, **k: '{\"c\": [[\"v\", true]]}'" + SOLVE),
    ("replace the codec", "import sys\nsys.modules['sandbox.runner.canonical'].encode = lambda v, d=0: True" + SOLVE),
    ("replace the evaluation", "import sys\nsys.modules['sandbox.runner.program'].evaluate = lambda *a: ['v', None]" + SOLVE),
    ("replace type()", "import builtins\nbuiltins.type = lambda *a: int" + SOLVE),
    ("replace compile and eval", "import builtins\nbuiltins.eval = lambda *a: 'correct'\nbuiltins.compile = lambda *a, **k: None" + SOLVE),
    ("empty the builtins", "import builtins\nfor k in list(vars(builtins)): delattr(builtins, k)", "runtime_error blocked"),
    ("empty sys.modules", "import sys\nsys.modules.clear()" + SOLVE),
    ("forget stdout", "import sys\nsys.stdout = sys.stderr = None" + SOLVE),
    ("a stdout that raises", "import sys\nclass E:\n  def __getattr__(s, k): raise SystemExit(0)\nsys.stdout = E()" + SOLVE),
    ("trace the harness", "import sys\ndef t(f, e, a):\n  f.f_locals['status'] = 0\n  return t\nsys.settrace(t)" + SOLVE),
    ("ignore every signal", "import signal\nfor s in range(1, 65):\n  try: signal.signal(s, signal.SIG_IGN)\n  except (OSError, ValueError): pass\nwhile True: pass", "timeout"),
    ("patch unittest and sqlite3", "import unittest, sqlite3\nunittest.TestCase.assertEqual = lambda *a: None\nsqlite3.connect = None" + SOLVE),
    ("patch signal and time", "import signal, time\nsignal.alarm = signal.setitimer = lambda *a: 0\ntime.monotonic = lambda: 0.0\nwhile True: pass", "timeout"),
    ("lift its own limits", "import resource\nfor r in (resource.RLIMIT_AS, resource.RLIMIT_NPROC, resource.RLIMIT_FSIZE):\n  resource.setrlimit(r, (-1, -1))", "runtime_error blocked"),
]  # fmt: skip

_FORGE = "import os, struct\ndef forge(status, value, error=b'', mark=b'done'):\n  os.pwrite(3, struct.pack('>4sBII', mark, status, len(value), len(error)) + value + error, 0)\n  os._exit(0)\n"  # noqa: E501
FORGED = [
    ("print the answers", "print('[{\"value\": 24}, {\"value\": 73}, {\"value\": -4}]')" + SOLVE),
    ("print a result frame", "import sys, struct\nsys.stdout.buffer.write(struct.pack('>IB', 29, 82) + struct.pack('>IBdIII', 1, 0, 0.0, 4, 0, 0) + b'null')" + SOLVE),
    ("print Docker stream headers", "import os\nos.write(1, b'\\x01\\0\\0\\0\\0\\0\\0\\x05\\0\\0\\0\\0\\x52' * 100)" + SOLVE),
    ("write to the runner's stdout", "import os\ndef solve(n):\n  for p in os.listdir('/proc'):\n    if p.isdigit():\n      try: os.write(os.open(f'/proc/{p}/fd/1', os.O_WRONLY), b'x')\n      except OSError: pass"),
    ("forge a result of another shape", _FORGE + "forge(0, b'{\"c\": []}')", "blocked"),
    ("forge more answers than calls", _FORGE + "forge(0, b'{\"c\": [[\"v\", 1], [\"v\", 1], [\"v\", 1], [\"v\", 1]]}')", "blocked"),
    ("forge a result that is not JSON", _FORGE + "forge(0, b'\\xff\\xfe')", "blocked"),
    ("forge an unknown tag", _FORGE + "forge(0, b'{\"c\": [[\"v\", {\"py/object\": \"os.system\"}], [\"v\", 1], [\"v\", 1]]}')", "blocked"),
    ("forge a wrong body", _FORGE + "forge(0, b'{\"c\": [[\"v\", {\"td\": [1e308, 1e308, 1e308]}], [\"v\", 1], [\"v\", 1]]}')", "blocked"),
    ("forge an unhashable key", _FORGE + "forge(0, b'{\"c\": [[\"v\", {\"d\": [[[1], 2]]}], [\"v\", 1], [\"v\", 1]]}')", "blocked"),
    ("forge deep nesting", _FORGE + "forge(0, b'{\"c\": [[\"v\", ' + b'[' * 90000 + b']' * 90000 + b'], [\"v\", 1], [\"v\", 1]]}')", "blocked"),
    ("forge a set that hashes slowly", _FORGE + "s = ','.join(str(i * (2**61 - 1)) for i in range(4)) + ',' + ','.join('{\"i\": \"%x\"}' % (i * (2**61 - 1)) for i in range(5, 20000))\nforge(0, ('{\"c\": [[\"v\", {\"s\": [' + s + ']}], [\"v\", 1], [\"v\", 1]]}').encode())", "blocked"),
    ("forge a huge number", _FORGE + "forge(0, b'{\"c\": [[\"v\", ' + b'9' * 500000 + b'], [\"v\", 1], [\"v\", 1]]}')", "blocked"),
    ("forge a decimal from outer space", _FORGE + "forge(0, b'{\"c\": [[\"v\", {\"q\": [1, 0]}], [\"v\", 1], [\"v\", 1]]}')", "blocked"),
    ("claim an outage", _FORGE + "forge(6, b'')", "blocked"),
    ("claim an unknown status", _FORGE + "forge(99, b'')", "blocked"),
    ("claim lengths that lie", "import os, struct\nos.pwrite(3, struct.pack('>4sBII', b'done', 0, 10**9, 10**9), 0)\nos._exit(0)", "blocked"),
    ("flood stdout", "import os\nwhile True: os.write(1, b'x' * 65536)", "resource_limit"),
    ("flood stderr", "import os\nwhile True: os.write(2, b'x' * 65536)", "resource_limit"),
    ("flood the result", "import os\nwhile True: os.write(3, b'x' * 65536)", "resource_limit"),
    ("a result too large", "def solve(n): return 'x' * 3_000_000", "resource_limit"),
    ("a result that contains itself", "def solve(n):\n  a = []\n  a.append(a)\n  return a"),
    ("a result nested ten thousand deep", "def solve(n):\n  a = []\n  for _ in range(10**4): a = [a]\n  return a"),
]  # fmt: skip

FILES = [
    ("write over the runner", "open('/opt/codelutra/sandbox/runner/program.py', 'w')", "blocked"),
    ("plant a usercustomize", "open('/usr/lib/python3/dist-packages/usercustomize.py', 'w')", "blocked"),
    ("plant a .pth file", "import site\nopen(site.getsitepackages()[0] + '/x.pth', 'w')", "blocked runtime_error"),
    ("plant a conftest and a json.py", "for n in ('conftest.py', 'json.py', 'sitecustomize.py', 'random.py'): open(n, 'w').write('raise SystemExit(0)')" + SOLVE),
    ("change the password file", "open('/etc/passwd', 'a')", "blocked"),
    ("forge a database", "open('/box/db/' + '0' * 64, 'wb')", "blocked"),
    ("remove its own directory", "import os, shutil\nshutil.rmtree('/box/w', ignore_errors=True)\nos.chdir('/')\ntry: os.rmdir('/box/w')\nexcept OSError: pass" + SOLVE),
    ("close its directory to the janitor", "import os\nos.makedirs('a/b')\nopen('a/b/c', 'w').close()\nos.chmod('a/b', 0)\nos.chmod('a', 0)\ntry: os.chmod('.', 0)\nexcept OSError: pass" + SOLVE),
    ("a very deep directory", "import os\nfor _ in range(1500):\n  os.mkdir('d' * 200)\n  os.chdir('d' * 200)" + SOLVE),
    ("names nobody can print", "import os\nfor n in (b'\\xff\\xfe', b'a\\nb', b'-rf', b' ', b'\\x1b[2J'): os.mkdir(n)\nopen(b'\\xff\\xfe/' + b'\\x80' * 200, 'w')" + SOLVE),
    ("links that point outside", "import os\nos.symlink('/etc', 'etc')\nos.symlink('/box/w', 'self')\nos.mkdir('d')\nos.symlink('..', 'd/up')\nos.mkfifo('fifo')" + SOLVE),
    ("fill the disk", "f = open('big', 'wb')\nn = 0\nwhile True:\n  open(f'big{n}', 'wb').write(b'x' * (8 << 20))\n  n += 1", "resource_limit"),
    ("use up the inodes", "n = 0\nwhile True:\n  open(f'f{n}', 'w').close()\n  n += 1", "resource_limit"),
    ("one file too large", "f = open('big', 'wb')\nwhile True: f.write(b'x' * (8 << 20))", "resource_limit"),
    ("overwrite the interpreter", "open('/proc/self/exe', 'wb')", "blocked runtime_error"),
    ("make a device", "import os, stat\nos.mknod('sda', 0o666 | stat.S_IFBLK, os.makedev(8, 0))", "blocked"),
]  # fmt: skip

_LIBC = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
NEIGHBOURS = [
    ("leave a daemon", "import os, time\nif os.fork() == 0:\n  os.setsid()\n  if os.fork() == 0:\n    while True: time.sleep(0.001)\n  os._exit(0)" + SOLVE),
    ("leave a hundred daemons", "import os, time\nfor _ in range(100):\n  try:\n    if os.fork() == 0:\n      os.setsid()\n      time.sleep(1000)\n  except OSError: break" + SOLVE),
    ("leave a daemon that ignores signals", "import os, signal, time\nif os.fork() == 0:\n  for s in (1, 2, 3, 15): signal.signal(s, signal.SIG_IGN)\n  os.setsid()\n  while True: pass" + SOLVE),
    ("leave a daemon that keeps forking", "import os\nif os.fork() == 0:\n  os.setsid()\n  while True:\n    try:\n      if os.fork(): os._exit(0)\n    except OSError: pass" + SOLVE),
    ("leave a thread", "import threading, time\nthreading.Thread(target=time.sleep, args=(1000,)).start()" + SOLVE),
    ("leave a stopped child", "import os, signal, time\nif os.fork() == 0:\n  os.kill(os.getpid(), signal.SIGSTOP)" + SOLVE),
    ("stop itself", "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)", "timeout"),
    ("kill its parent", "import os\nos.kill(os.getppid(), 9)", "blocked"),
    ("kill everybody", "import os\nos.kill(-1, 9)\nfor p in range(1, 200):\n  try: os.kill(p, 9)\n  except OSError: pass" + SOLVE),
    ("stop the runner", "import os, signal\nfor p in range(1, 20):\n  try: os.kill(p, signal.SIGSTOP)\n  except OSError: pass" + SOLVE),
    ("trace the runner", _LIBC + "r = [libc.ptrace(16, p, 0, 0) for p in range(1, 20)]\nassert 0 not in r[:8], r" + SOLVE),
    ("trace its own parent's next child", _LIBC + "import os\nif libc.ptrace(0x4206, os.getppid(), 0, 0) == 0: raise SystemError" + SOLVE),
    ("limit the runner", "import os, resource\nfor p in (1, 7, 8, 9, os.getppid()):\n  try: resource.prlimit(p, resource.RLIMIT_NOFILE, (0, 0))\n  except OSError: pass" + SOLVE),
    ("leave System V shared memory", _LIBC + "r = libc.shmget(1234, 1 << 20, 0o1666)\nassert r == -1, r" + SOLVE),
    ("leave a message queue", _LIBC + "r = libc.msgget(1234, 0o1666)\nassert r == -1, r\nr = libc.mq_open(b'/x', 0o102, 0o666, None)\nassert r == -1, r" + SOLVE),
    ("leave a file in /dev/shm", "open('/dev/shm/x', 'w')", "runtime_error blocked"),
    ("leave a file in /tmp", "open('/tmp/x', 'w').write('x' * 100)\nopen('/var/tmp/y', 'w').write('y')" + SOLVE),
    ("leave an abstract socket", "import os, socket, time\ns = socket.socket(socket.AF_UNIX)\ns.bind('\\0here')\ns.listen()\nif os.fork() == 0:\n  os.setsid()\n  time.sleep(1000)" + SOLVE),
    ("leave a listener on the loopback", "import os, socket, time\ns = socket.socket()\ns.bind(('127.0.0.1', 4242))\ns.listen()\nif os.fork() == 0: time.sleep(1000)" + SOLVE),
    ("protect itself from the out-of-memory killer", _LIBC + "libc.prctl(4, 1, 0, 0, 0)\nopen('/proc/self/oom_score_adj', 'w').write('-1000')" + SOLVE),
]  # fmt: skip

EXHAUST = [
    ("loop", "while True: pass", "timeout", 1.0),
    ("sleep", "import time\ntime.sleep(1000)", "timeout", 1.0),
    ("loop in the call", "def solve(n):\n  while True: pass", "timeout", 1.0),
    ("a regular expression without end", "import re\nre.match('(a+)+$', 'a' * 64 + 'b')", "timeout", 1.0),
    ("a number without end", "x = 10 ** 10 ** 10", "timeout resource_limit", 1.0),
    ("a result without end", "def solve(n):\n  import itertools\n  return list(itertools.count())", "", 2.0),
    ("an import without end", "import sys\nclass F:\n  def find_spec(s, *a):\n    while True: pass\nsys.meta_path.insert(0, F())\nimport nothing", "timeout", 1.0),
    ("a destructor without end", "class E:\n  def __del__(s):\n    while True: pass\nE()", "timeout", 1.0),
    ("fork bomb", "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass", "timeout", 1.0),
    ("fork bomb of new sessions", "import os\nwhile True:\n  try:\n    if os.fork() == 0: os.setsid()\n  except OSError: pass", "timeout", 1.0),
    ("thread bomb", "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(1000,)).start()", "runtime_error resource_limit", 3.0),
    ("memory bomb", "x = []\nwhile True: x.append(bytearray(1 << 24))", "resource_limit", 3.0),
    ("memory bomb in children", "import os, time\nfor _ in range(8):\n  if os.fork() == 0:\n    x = []\n    try:\n      while True: x.append(bytearray(1 << 24))\n    except MemoryError: time.sleep(1000)\nos.wait()\ntime.sleep(1000)", "timeout resource_limit runtime_error", 3.0),
    ("memory in memory files", "import os\nfs = []\nwhile True:\n  fs.append(os.memfd_create('m'))\n  os.write(fs[-1], b'x' * (16 << 20))", "resource_limit timeout", 3.0),
    ("open files without end", "fs = []\nwhile True: fs.append(open('/dev/null'))", "resource_limit", 2.0),
    ("pipes without end", "import os\nwhile True: os.pipe()", "resource_limit", 2.0),
    ("nested parentheses", "(" * 5000 + ")" * 5000, "syntax_error resource_limit runtime_error", 2.0),
    ("a nul in the source", "x = 1\0", "syntax_error", 2.0),
    ("half a character in the source", "x = '\udcff'", "syntax_error", 2.0),
]  # fmt: skip

ESCAPE = [
    ("connect to the internet", "import socket\nsocket.create_connection(('1.1.1.1', 53), 1)", "blocked"),
    ("ask for a name", "import socket\nsocket.getaddrinfo('example.org', 80)", "runtime_error blocked"),
    ("cloud metadata", "import urllib.request\nurllib.request.urlopen('http://169.254.169.254/latest/meta-data/', timeout=1)", "runtime_error blocked"),
    ("the Docker socket", "import socket\nsocket.socket(socket.AF_UNIX).connect('/var/run/docker.sock')", "runtime_error blocked"),
    ("a raw socket", "import socket\nsocket.socket(socket.AF_PACKET, socket.SOCK_RAW)", "blocked"),
    ("become root", "import os\nos.setuid(0)", "blocked"),
    ("become its neighbour", "import os\nos.setresuid(os.getuid() + 1, -1, -1)", "blocked"),
    ("a new user namespace", _LIBC + "if libc.unshare(0x10000000) == 0: raise SystemError\nraise PermissionError(ctypes.get_errno(), 'refused')", "blocked"),
    ("mount", _LIBC + "if libc.mount(b'none', b'/box/w', b'tmpfs', 0, None) == 0: raise SystemError\nraise PermissionError(ctypes.get_errno(), 'refused')", "blocked"),
    ("change root", "import os\nos.mkdir('r')\nos.chroot('r')", "blocked"),
    ("kernel keys", _LIBC + "if libc.syscall(248, b'user', b'k', b'v', 1, -3) >= 0: raise SystemError\nraise PermissionError(ctypes.get_errno(), 'refused')", "blocked runtime_error"),
    ("load a program into the kernel", _LIBC + "if libc.syscall(321, 0, 0, 0) >= 0: raise SystemError\nraise PermissionError(ctypes.get_errno(), 'refused')", "blocked"),
    ("write to the kernel", "open('/proc/sys/kernel/core_pattern', 'w')", "blocked"),
    ("restart the machine", "open('/proc/sysrq-trigger', 'w').write('b')", "blocked runtime_error"),
    ("release the control group", "import glob\nfor p in glob.glob('/sys/fs/cgroup/**/release_agent', recursive=True) + ['/sys/fs/cgroup/x']: open(p, 'w')", "blocked runtime_error"),
    ("set-user-id programs", "import subprocess\nsubprocess.run(['su', '-c', 'id'], check=True)", "runtime_error blocked"),
    ("hard-coded answers for the visible call", "def solve(n): return {3: 24}.get(n)"),
]  # fmt: skip

QUERIES = [
    ("delete", "delete from singer", "blocked"),
    ("update", "update singer set age = 99", "blocked"),
    ("insert", "insert into singer values (9, 'Ada', 99)", "blocked"),
    ("replace", "replace into singer values (3, 'Zoe', 31)", "blocked"),
    ("drop", "drop table singer", "blocked"),
    ("alter", "alter table singer rename to s", "blocked"),
    ("delete behind a with", "with x as (select 1) delete from singer", "blocked"),
    ("update returning the answer", "update singer set name = name where age > 30 returning name", "blocked"),
    ("shadow a table", "create temp table singer as select 'Ada' name, 99 age", "blocked"),
    ("shadow with a view", "create temp view singer as select 'Ada' name, 99 age", "blocked"),
    ("a trigger", "create temp trigger t after insert on singer begin select 1; end", "blocked"),
    ("attach a database", "attach ':memory:' as x", "blocked"),
    ("attach a file", "attach '/box/w/x' as main2", "blocked"),
    ("write a copy", "vacuum into '/box/w/x'", "blocked"),
    ("pragma", "pragma writable_schema = 1", "blocked"),
    ("lift query_only", "pragma query_only = 0", "blocked"),
    ("lift the heap limit", "pragma hard_heap_limit = 0", "blocked"),
    ("a pragma as a table", "select * from pragma_database_list", "blocked runtime_error"),
    ("load an extension", "select load_extension('/lib/x86_64-linux-gnu/libc.so.6')", "blocked runtime_error"),
    ("read a file", "select readfile('/etc/passwd')", "blocked runtime_error"),
    ("the tokenizer pointer", "select fts3_tokenizer('simple')", "blocked runtime_error"),
    ("raw pages", "select * from sqlite_dbpage", "blocked runtime_error"),
    ("begin", "begin exclusive", "blocked"),
    ("savepoint", "savepoint x", "blocked"),
    ("reindex", "reindex", "blocked"),
    ("analyze", "analyze", "blocked"),
    ("two statements", RIGHT_QUERY + "; select 1", "blocked"),
    ("a second statement behind a comment", RIGHT_QUERY + "; -- done\n delete from singer", "blocked"),
    ("a second statement behind a block comment", RIGHT_QUERY + " /* ; */ ; /* */ drop table singer", "blocked"),
    ("no statement", "-- select name from singer", "syntax_error"),
    ("a semicolon", ";", "syntax_error"),
    ("not SQL", "Sure! Here is the query:", "syntax_error"),
    ("a nul in the query", "select name\0 from singer", "syntax_error"),
    ("half a character in the query", "select '\udcff'", "syntax_error"),
    ("count without end", "with recursive c(x) as (select 1 union all select x + 1 from c) select count(*) from c", "timeout"),
    ("rows without end", "with recursive c(x) as (select 1 union all select x + 1 from c) select x from c", "resource_limit"),
    ("a product of everything", "select count(*) from song a, song b, song c, song d, song e, song f, song g, song h, song i, song j, song k, song l, song m, song n, song o", "timeout"),  # noqa: E501
    ("sort more than fits into memory", "with recursive c(x) as (select 1 union all select x + 1 from c) select hex(randomblob(500)) h from c order by h", "resource_limit timeout"),  # noqa: E501
    ("a huge blob", "select zeroblob(2000000000)", "resource_limit"),
    ("many large blobs", "with recursive c(x) as (select 1 union all select x + 1 from c limit 2000) select randomblob(900000) from c", "resource_limit"),  # noqa: E501
    ("a text that doubles", "with recursive c(x, t) as (select 1, 'x' union all select x + 1, t || t from c) select max(length(t)) from c", "resource_limit"),  # noqa: E501
    ("a format that fills memory", "select printf('%.*c', 2000000000, 'x')", "resource_limit runtime_error timeout"),
    ("a single step that never ends", "select instr(hex(zeroblob(1900000)), hex(zeroblob(950000)) || '1')", "timeout"),
    ("one endless function", "select replace(replace(hex(zeroblob(400000)), '00', '0000000000'), '0', 'xxxxxxxxxxxxxxxx')", "resource_limit"),
    ("nested too deep", "select " + "(" * 3000 + "1" + ")" * 3000, "runtime_error syntax_error resource_limit"),
    ("many columns", "select " + ", ".join("1" for _ in range(3000)), "runtime_error syntax_error resource_limit"),
    ("nothing, for a reference that gives nothing", "select name from singer where 0"),
    ("more columns than asked", "select name, age from singer where age > 30 order by name"),
    ("a number for a text", "select 0 from singer where age > 30"),
]  # fmt: skip


def python_attacks() -> list[Attack]:
    groups = {
        "equality": EQUALITY, "read the expected": READ_EXPECTED, "exit": EXITS, "patch the harness": HARNESS,
        "forge": FORGED, "files": FILES, "neighbours": NEIGHBOURS, "exhaust": EXHAUST, "escape": ESCAPE,
    }  # fmt: skip
    return [Attack(str(name), kind, *rest) for kind, group in groups.items() for name, *rest in group]  # type: ignore[misc]


def sql_attacks() -> list[Attack]:
    return [Attack(f"sql: {name}", "sql", *rest) for name, *rest in QUERIES]

"""What programs may not ask of the kernel: a seccomp filter on top of the one that Docker has.

Docker's own list differs from version to version and may be off. This one holds for programs alone, as the runner itself
needs some of these calls. What a program asks in vain fails with EPERM.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator

PR_SET_SECCOMP, MODE_FILTER = 22, 2
ALLOW, REFUSE, ABSENT = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
LOAD, EQUAL, ABOVE, ANY_BIT, RETURN = 0x20, 0x15, 0x25, 0x45, 0x06  # instructions of the kernel's packet filter
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}  # audit number; column of the numbers below
OTHER_CONVENTION = 0x3FFFFFFF  # x86-64 has a second set of numbers above

NEW_NAMESPACES = 0x7E020000  # flags of clone(2)
FAMILIES = (1, 2, 10)  # AF_UNIX, AF_INET, AF_INET6: no vsock, netlink, packets, kernel cryptography
LAST_PROTOCOL = 17  # UDP; the kernel loads modules for those above: DCCP, SCTP, MPTCP
PRCTL = (4, 22, 62)  # PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SCHED_CORE
SPECIAL = {"clone": (56, 220), "clone3": (435, 435), "socket": (41, 198), "socketpair": (53, 199), "prctl": (157, 167)}
# Allowed where the first so many arguments are 0: a process may do it to itself.
ON_ITSELF = {(142, 118): 1, (144, 119): 1, (203, 122): 1, (314, 274): 1, (141, 140): 2}  # sched_set*, setpriority
# Name, number on x86-64, number on aarch64 (-: it has none). io_setup takes slots that the whole machine has few of.
DENIED = """
    memfd_create 319 279       memfd_secret 447 447       userfaultfd 323 282        io_uring_setup 425 425
    io_uring_enter 426 426     io_uring_register 427 427  ptrace 101 117             process_vm_readv 310 270
    process_vm_writev 311 271  process_madvise 440 440    process_mrelease 448 448   pidfd_getfd 438 438
    kcmp 312 272               move_pages 279 239         migrate_pages 256 238      mbind 237 235
    set_mempolicy 238 237      ioprio_set 251 30          perf_event_open 298 241    unshare 272 97
    setns 308 268              mount 165 40               umount2 166 39             pivot_root 155 41
    chroot 161 51              open_tree 428 428          move_mount 429 429         fsopen 430 430
    fsconfig 431 431           fsmount 432 432            fspick 433 433             mount_setattr 442 442
    name_to_handle_at 303 264  open_by_handle_at 304 265  fanotify_init 300 262      bpf 321 280
    seccomp 317 277            add_key 248 217            request_key 249 218        keyctl 250 219
    personality 135 92         quotactl 179 60            quotactl_fd 443 443        acct 163 89
    syslog 103 116             lookup_dcookie 212 18      kexec_load 246 104         kexec_file_load 320 294
    init_module 175 105        finit_module 313 273       delete_module 176 106      reboot 169 142
    swapon 167 224             swapoff 168 225            vhangup 153 58             modify_ldt 154 -
    iopl 172 -                 ioperm 173 -               io_setup 206 0
"""

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, operand


class Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def install() -> str:
    """Put this process and all it forks under the filter. Returns why that is not possible, or ""."""
    machine = os.uname().machine
    if machine not in MACHINES:
        return f"there is no list of system calls for {machine}"
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions(*MACHINES[machine]))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_SECCOMP, MODE_FILTER, ctypes.byref(Program(len(code) // 8, code)), 0, 0):
        return f"the kernel takes no filter: {os.strerror(ctypes.get_errno())}"
    return ""


def instructions(architecture: int, column: int) -> Iterator[Instruction]:
    """The filter. Each rule looks at the number and skips its own length where it is another's."""
    yield (LOAD, 0, 0, ARCHITECTURE)
    yield (EQUAL, 1, 0, architecture)
    yield (RETURN, 0, 0, REFUSE)
    yield (LOAD, 0, 0, NUMBER)
    yield (ABOVE, 0, 1, OTHER_CONVENTION)
    yield (RETURN, 0, 0, REFUSE)
    words = DENIED.split()
    denied = {int(number) for number in words[1 + column :: 3] if number != "-"}
    rules = [(number, [(RETURN, 0, 0, REFUSE)]) for number in sorted(denied)]
    of = {name: numbers[column] for name, numbers in SPECIAL.items()}
    rules.append((of["clone3"], [(RETURN, 0, 0, ABSENT)]))  # its flags are out of reach; the C library takes clone instead
    rules.append((of["clone"], [argument(0), (ANY_BIT, 0, 1, NEW_NAMESPACES), (RETURN, 0, 0, REFUSE)]))
    rules.append((of["prctl"], [argument(0), *refuse_if_any(PRCTL)]))
    for name in ("socket", "socketpair"):
        rules.append((of[name], [argument(0), *refuse_unless_any(FAMILIES), argument(2), (ABOVE, 0, 1, LAST_PROTOCOL)]))
        rules[-1][1].append((RETURN, 0, 0, REFUSE))
    for numbers, count in ON_ITSELF.items():
        rules.append((numbers[column], [i for at in range(count) for i in (argument(at), *refuse_unless_any((0,)))]))
    for number, body in rules:
        yield (EQUAL, 0, len(body) + 1, number)
        yield from body
        yield (RETURN, 0, 0, ALLOW)
    yield (RETURN, 0, 0, ALLOW)


def argument(index: int) -> Instruction:
    return (LOAD, 0, 0, ARGUMENTS + 8 * index)  # its lower half: both machines are little-endian, and these are ints


def refuse_if_any(values: tuple[int, ...]) -> Iterator[Instruction]:
    for value in values:
        yield (EQUAL, 0, 1, value)
        yield (RETURN, 0, 0, REFUSE)


def refuse_unless_any(values: tuple[int, ...]) -> Iterator[Instruction]:
    for at, value in enumerate(values):
        yield (EQUAL, len(values) - at, 0, value)
    yield (RETURN, 0, 0, REFUSE)

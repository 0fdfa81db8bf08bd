"""Takes everything but reading from the gathering child: it opens no socket, starts nothing, writes no file.

The child reads a job's files as the host's root. Even if taken over, it can only open files for reading and print. Runs
in the child alone, before it reads anything of a sandbox; imports nothing of ours.
"""

import ctypes
import os
import resource
import struct

_ALLOWED = {
    # System calls by name: their numbers on x86_64 and aarch64 (asm/unistd_64.h, asm-generic/unistd.h).
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "stat": (4, None),
    "fstat": (5, 80),
    "lstat": (6, None),
    "poll": (7, None),
    "lseek": (8, 62),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "ioctl": (16, 29),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "dup": (32, 23),
    "getpid": (39, 172),
    "exit": (60, 93),
    "fcntl": (72, 25),
    "readlink": (89, None),
    "getuid": (102, 174),
    "futex": (202, 98),
    "getdents64": (217, 61),
    "clock_gettime": (228, 113),
    "exit_group": (231, 94),
    "openat": (257, 56),
    "newfstatat": (262, 79),
    "readlinkat": (267, 78),
    "ppoll": (271, 73),
    "getrandom": (318, 278),
    "statx": (332, 291),
    "rseq": (334, 293),
    "pidfd_open": (434, 434),
}
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""The column above and the AUDIT_ARCH value (linux/audit.h), by the machine's name in uname."""
_X32_BIT = 0x40000000

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_LOAD, _EQUAL, _GREATER_EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _OPENAT_FLAGS = 0, 4, 32  # offsets in struct seccomp_data; last: argument 3's low half
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050001, 0x80000000  # refused with EPERM: reported, not hidden
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

_MEMORY, _SECONDS, _FILES, _OUTPUT = 1 << 30, 60, 4096, 64 << 20


def confine() -> None:
    """Confine this process. Raises `OSError` when the kernel cannot: then nothing may be read."""
    for limit, value in (
        (resource.RLIMIT_AS, _MEMORY),
        (resource.RLIMIT_CPU, _SECONDS),
        (resource.RLIMIT_NOFILE, _FILES),
        (resource.RLIMIT_FSIZE, _OUTPUT),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(limit)
        most = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (most, most))
    program = _program(os.uname().machine)
    code = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: number of instructions, padding, address.
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    for call in ((_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, header, 0, 0)):
        if libc.prctl(*call) != 0:
            raise OSError(ctypes.get_errno(), "the kernel does not confine the inspector (it needs seccomp filters)")


def _program(machine: str) -> bytes:
    """Return the filter in classic BPF (linux/filter.h)."""
    if machine not in _ARCHITECTURES:
        raise OSError(f"the inspector knows the system calls of {' and '.join(_ARCHITECTURES)}, not of {machine}")
    column, architecture = _ARCHITECTURES[machine]
    openat = _ALLOWED["openat"][column]
    others = [both[column] for both in _ALLOWED.values() if both[column] not in (None, openat)]
    allow, refuse, kill = ((_RETURN, 0, 0, what) for what in (_ALLOW, _REFUSE, _KILL))
    instructions = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, architecture),  # the numbers: instructions to skip if true, if false
        kill,
        (_LOAD, 0, 0, _NUMBER),
        (_GREATER_EQUAL, 0, 1, _X32_BIT),
        kill,
        (_EQUAL, 0, 4, openat),
        (_LOAD, 0, 0, _OPENAT_FLAGS),
        (_ANY_BIT, 0, 1, _WRITING),
        refuse,
        allow,
    ]
    for number in others:
        instructions += [(_EQUAL, 0, 1, number), allow]
    return b"".join(struct.pack("HBBI", *instruction) for instruction in [*instructions, refuse])

"""A system call filter (seccomp BPF, see seccomp(2) and filter.h of the Linux headers).

The sandbox refuses the calls by which a process could hold memory that no limit counts, change its
mounts, or look into others. Everything else that a process without privileges may do stays allowed.
"""

import platform
import struct

# Each name: its number on x86_64 and on aarch64 (the kernel's tables unistd_64.h and unistd.h).
REFUSED = {
    "memfd_create": (319, 279),  # files in memory without a name: neither RLIMIT_AS nor tmpfs
    "memfd_secret": (447, 447),
    "shmget": (29, 194),  # System V memory, message queues, semaphores: the same
    "msgget": (68, 186),
    "semget": (64, 190),
    "add_key": (248, 217),  # the kernel's key rings, which all processes of a user share
    "keyctl": (250, 219),
    "mount": (165, 40),  # in a namespace of its own a process might mount a tmpfs of any size
    "fsopen": (430, 430),
    "unshare": (272, 97),
    "setns": (308, 268),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "io_uring_setup": (425, 425),  # does files and sockets past a filter of system calls
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "perf_event_open": (298, 241),
}
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # linux/audit.h
LOAD, JUMP_EQUAL, JUMP_GREATER_EQUAL, RETURN = 0x20, 0x15, 0x35, 0x06  # linux/bpf_common.h
ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050001, 0x80000000  # REFUSE: the call fails with EPERM
X32_CALLS = 0x40000000  # x86_64's second table of the same calls, by other numbers


def program(machine: str | None = None) -> bytes:
    """The filter for this machine's processor, in the kernel's binary form.

    Raises:
        KeyError: for a processor other than x86_64 and aarch64.
    """
    machine = machine or platform.machine()
    column = list(AUDIT_ARCH).index(machine) if machine in AUDIT_ARCH else None
    if column is None:
        raise KeyError(machine)
    numbers = [pair[column] for pair in REFUSED.values()]
    end = len(numbers) + 1  # distance from the first comparison to ALLOW, and then to REFUSE
    lines = [
        (LOAD, 0, 0, 4),  # seccomp_data.arch
        (JUMP_EQUAL, 1, 0, AUDIT_ARCH[machine]),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, 0),  # seccomp_data.nr
        (JUMP_GREATER_EQUAL, end, 0, X32_CALLS),
        *[(JUMP_EQUAL, end - 1 - i, 0, number) for i, number in enumerate(numbers)],
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, REFUSE),
    ]
    return b"".join(struct.pack("HBBI", *line) for line in lines)

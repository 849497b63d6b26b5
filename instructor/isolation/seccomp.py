"""A system call filter (seccomp BPF, see seccomp(2) and filter.h of the Linux headers).

The sandbox refuses the calls by which a process could hold memory or use time that no limit counts,
leave something behind for a later process, change its mounts, or look into others. Threads can be
started, processes cannot. Everything else that a process without privileges may do stays allowed.
"""

import platform
import struct

# Each name: its number on x86_64 and on aarch64 (the kernel's tables unistd_64.h and unistd.h).
REFUSED = {
    # A child that nobody waits for takes the account of its CPU time along.
    "fork": (57, None),
    "vfork": (58, None),
    # Memory in no process: neither RLIMIT_AS nor the size of a tmpfs counts it.
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "socket": (41, 198),
    "socketpair": (53, 199),
    # What a later sandbox could see: the key rings of a user, what is in the page cache.
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "fadvise64": (221, 223),
    "preadv2": (327, 286),
    "mincore": (27, 232),
    "cachestat": (451, 451),
    # In a namespace of its own a process might mount a tmpfs of any size.
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "fsopen": (430, 430),
    "open_tree": (428, 428),
    # Looking into others, and calls with a history of holes in the kernel.
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "io_uring_setup": (425, 425),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "perf_event_open": (298, 241),
}
CLONE, CLONE3, MMAP = (56, 220), (435, 435), (9, 222)
CLONE_THREAD, MAP_SHARED = 0x10000, 0x01  # linux/sched.h, linux/mman.h
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # linux/audit.h
X32_CALLS = 0x40000000  # x86_64's second table of the same calls, by other numbers

LOAD, JUMP_EQUAL, JUMP_AT_LEAST, JUMP_IF_SET, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # offsets in seccomp_data; arguments have 8 bytes
VERDICTS = {
    "allow": 0x7FFF0000,
    "refuse": 0x00050001,  # the call fails with EPERM
    "unknown": 0x00050026,  # with ENOSYS: the C library then takes clone for clone3
    "kill": 0x80000000,
}


def program(machine: str | None = None) -> bytes:
    """The filter for this machine's processor, in the kernel's binary form.

    Raises:
        KeyError: for a processor other than x86_64 and aarch64.
    """
    machine = machine or platform.machine()
    architecture = AUDIT_ARCH[machine]
    column = list(AUDIT_ARCH).index(machine)
    # (operation, operand, where to go on if it holds, and if not); "" is the next line
    lines = [
        (LOAD, ARCHITECTURE, "", ""),
        (JUMP_EQUAL, architecture, "", "kill"),
        (LOAD, NUMBER, "", ""),
        (JUMP_AT_LEAST, X32_CALLS, "refuse", ""),
    ]
    for numbers in REFUSED.values():
        if numbers[column] is not None:
            lines.append((JUMP_EQUAL, numbers[column], "refuse", ""))
    lines += [
        (JUMP_EQUAL, CLONE3[column], "unknown", ""),  # its flags are in memory, out of sight
        (JUMP_EQUAL, CLONE[column], "", "not clone"),
        (LOAD, ARGUMENTS, "", ""),  # flags
        (JUMP_IF_SET, CLONE_THREAD, "allow", "refuse"),
        "not clone",
        (JUMP_EQUAL, MMAP[column], "", "allow"),
        (LOAD, ARGUMENTS + 3 * 8, "", ""),  # flags
        (JUMP_IF_SET, MAP_SHARED, "refuse", "allow"),
    ]
    for name, verdict in VERDICTS.items():
        lines += [name, (RETURN, verdict, "", "")]
    return assemble(lines)


def assemble(lines: list) -> bytes:
    """Replace labels, which stand in lines of their own, by distances."""
    places, code = {}, []
    for line in lines:
        if isinstance(line, str):
            places[line] = len(code)
        else:
            code.append(line)

    def distance(at: int, label: str) -> int:
        return places[label] - at - 1 if label else 0

    return b"".join(
        struct.pack("HBBI", operation, distance(at, yes), distance(at, no), operand)
        for at, (operation, operand, yes, no) in enumerate(code)
    )

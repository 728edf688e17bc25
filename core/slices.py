"""Who may run next, on a machine whose cores are all in use.

Linux lets a process that runs end its slice, 1.4 ms on two cores, before one that wakes up gets the
core; unless that one asks for shorter slices than those of who runs. A store and its workers wake
up thousands of times a second, each time to do what somebody waits for, and for less than 0.1 ms:
so they ask. Nobody gets more of the machine by it, only sooner.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct

SLICE_NS = 100_000  # the shortest that Linux gives
# Linux alone has it, and no library that we use calls it; newer architectures share a number.
_NUMBERS = {"x86_64": 314, "aarch64": 274, "riscv64": 274, "loongarch64": 274}
# struct sched_attr: size, policy, flags, nice, priority, runtime, deadline, period, util_min, _max
_ATTRIBUTES = struct.Struct("=IIQiIQQQII")
_LIBC = ctypes.CDLL(None, use_errno=True)


def shorten(pid: int = 0) -> str:
    """Short slices for a process of our user's, 0 for this one, and for threads and children that
    it makes from now on. Why not, if the system does not give them: from Linux 6.12 on it does,
    those before take the wish and do nothing about it."""
    number = _NUMBERS.get(platform.machine())
    if platform.system() != "Linux" or number is None:
        return f"not known how on {platform.system()}, {platform.machine()}"
    try:
        policy = os.sched_getscheduler(pid)
        niceness = os.getpriority(os.PRIO_PROCESS, pid)
    except OSError as error:
        return str(error.strerror)
    wish = _ATTRIBUTES.pack(_ATTRIBUTES.size, policy, 0, niceness, 0, SLICE_NS, 0, 0, 0, 0)
    if _LIBC.syscall(number, pid, wish, 0):
        return os.strerror(ctypes.get_errno())
    return ""

"""Who may run next, on a machine whose cores are all in use.

Linux lets a process that runs end its slice, 1.4 ms on two cores, before one that wakes up gets the
core; unless that one asks for shorter slices than those of who runs. A store and its workers wake
up thousands of times a second, each time to do a little that somebody waits for: so they ask.
Nobody gets more of the machine by it, only sooner.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

SLICE_NS = 100_000  # the shortest that Linux gives
# sched_setattr, which no library that we use calls; sched_getattr is the one after it.
_NUMBERS = {"x86_64": 314, "aarch64": 274, "riscv64": 274, "loongarch64": 274}
# struct sched_attr: size, policy, flags, nice, priority, runtime, deadline, period, util_min, _max
_ATTRIBUTES = struct.Struct("=IIQiIQQQII")
_LIBC = ctypes.CDLL(None, use_errno=True)


def can_be_told() -> bool:
    """True if it is known how this system is asked."""
    known = sys.platform == "linux" and platform.machine() in _NUMBERS
    return known and sys.maxsize > 2**32  # a 32-bit Python has calls of other numbers


def length_ns(pid: int) -> int:
    """The slice that a process asked for and has; what Linux gives to all, or 0, if it did not ask.
    Raises OSError."""
    return int(_read(pid)[5])


def shorten(pid: int = 0) -> str:
    """Short slices for a process of our user's, 0 for this one, and for threads and children that
    it makes from now on. Why not, if it does not have them then: Linux has given them since 6.12.
    """
    if not can_be_told():
        return f"not known how on {platform.system()}, {platform.machine()}"
    try:
        wish = _read(pid)
        wish[5] = SLICE_NS
        _call(0, pid, _ATTRIBUTES.pack(*wish), 0)
        given_ns = length_ns(pid)
    except OSError as error:
        return str(error.strerror)
    return "" if given_ns == SLICE_NS else f"Linux {platform.release()} does not give them"


def _read(pid: int) -> list[int]:
    buffer = ctypes.create_string_buffer(_ATTRIBUTES.size)
    _call(1, pid, buffer, _ATTRIBUTES.size, 0)
    return list(_ATTRIBUTES.unpack(buffer.raw))


def _call(which: int, *arguments: object) -> None:
    if _LIBC.syscall(_NUMBERS[platform.machine()] + which, *arguments):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))

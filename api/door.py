"""The port as several processes hold it: one listening socket, from which whoever is free takes.

A socket of each worker's own (``SO_REUSEPORT``) would have a queue of its own, and what waits in it
is lost with its worker. In the one queue a caller waits for the next worker, whichever that is.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import select
import socket
import struct
import sys

KNOCK_SECONDS = 0.2  # for a handshake that has begun; one that takes longer may meet a closed door

# A packet filter of Linux for the listening socket: what only asks to begin (SYN without ACK among
# the flags, the 14th byte of the header) is dropped, all else goes on.
_SO_ATTACH_FILTER = 26
_NO_NEW_ONES = (
    (0x30, 0, 0, 13),  # load the flags
    (0x54, 0, 0, 0x12),  # of them SYN and ACK
    (0x15, 0, 1, 0x02),  # SYN alone?
    (0x06, 0, 0, 0),  # then drop it
    (0x06, 0, 0, 0xFFFF_FFFF),  # else keep it whole
)


_log = logging.getLogger("stockade.worker")


async def empty(listener: socket.socket) -> None:
    """Return when nobody who was let in waits any more, so that closing turns nobody away.

    The system resets connections that were made and not taken, with the request that is in them.
    So first no more are made: who asks hears nothing, asks again in a second, and finds the next
    service or a closed port. Then those that there are get taken, by the loop, as always.
    """
    if sys.platform == "linux":  # elsewhere one may slip in between the last look and the end
        try:
            _drop_new_ones(listener)
        except OSError as error:  # as without root on some systems: then as elsewhere
            _log.warning("who knocks in the last moment may be turned away: %s", error.strerror)
    await asyncio.sleep(KNOCK_SECONDS)
    while select.select([listener], [], [], 0)[0]:  # noqa: ASYNC110 - of the system
        await asyncio.sleep(0)


def _drop_new_ones(listener: socket.socket) -> None:
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in _NO_NEW_ONES)
    kept = ctypes.create_string_buffer(code)
    program = struct.pack("HP", len(_NO_NEW_ONES), ctypes.addressof(kept))
    listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)

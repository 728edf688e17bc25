"""The process between the service and a private server of it, so that none is left behind.

Run as a script, in a session of its own, with the standard library alone:

    guard.py ORDER

ORDER is JSON: the fields of ``Order``. The guard takes the lock in the data directory, makes the
runtime directory for the server's socket, starts the server, writes what that says to a log of
bounded size, and stops it when its own standard input ends: that is when the service closed it,
or is gone by whatever death. It answers on standard output, with one line:

    started PID           the server runs, as this process
    refused REASON        it does not, and REASON says why

The lock is held by the guard *and* by the server with all its children, which inherit it. So it
is free only when all of them are gone, even if some were killed. Its file says who holds it.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, NamedTuple

RUNTIME_PREFIX = "stockade-"
LOG_BYTES = 1 << 20  # per file, and one older file is kept: a year of a calm server's notices
# How long a start waits for an orphan to end, beyond what its guard may take to stop it.
ORPHAN_MARGIN_SECONDS = 2.0
POLL_SECONDS = 0.05
# A service that dies and a start that follows at once: the guard may not have noticed yet.
NOTICE_SECONDS = 0.5
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


class Order(NamedTuple):
    """What to guard. ``lock``, ``log`` and ``directory`` are names in ``data``."""

    service_pid: int
    data: str
    lock: str
    log: str
    directory: str  # where the server is started, made if it is missing; "" is data itself
    runtime: str
    sockets: list[str]  # what the server makes in runtime
    command: list[str]
    environ: dict[str, str]  # defaults: what the service's own environment says wins
    stop: list[tuple[int, float]]  # signals that end the server, and the seconds that each gets


class Refused(Exception):
    """The server cannot be started; the message is one line."""


class LockFile:
    """An flock on a file that says who holds it, and whether that one is on its way out."""

    def __init__(self, order: Order) -> None:
        self.data = order.data
        self.orphan_seconds = ORPHAN_MARGIN_SECONDS + sum(seconds for _, seconds in order.stop)
        self.fd = os.open(Path(order.data, order.lock), os.O_RDWR | os.O_CREAT, 0o600)

    def acquire(self) -> dict[str, Any]:
        """Take the lock and return what the last holder wrote; Refused while a service lives."""
        started = time.monotonic()
        while True:
            try:
                fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waited = time.monotonic() - started
                self._refuse_unless_orphaned(self.read(), waited)
                if _stdin_ended(POLL_SECONDS):
                    raise Refused("the service ended while its server was starting") from None
            else:
                return self.read()

    def _refuse_unless_orphaned(self, holder: dict[str, Any], waited: float) -> None:
        alive = _is_alive(holder.get("service_pid")) and _is_alive(holder.get("guard_pid"))
        if not alive or holder.get("stopping"):
            if waited < self.orphan_seconds:
                return
            raise Refused(
                f"{self.data} is still held by the server of a service that ended "
                f"(its guard was process {holder.get('guard_pid')}); stop that server"
            )
        if waited >= NOTICE_SECONDS:
            raise Refused(
                f"{self.data} is in use by process {holder['service_pid']} "
                f"since {holder.get('since')}; stop it, or choose another --data"
            )

    def read(self) -> dict[str, Any]:
        """What the holder wrote; empty when nobody did, or while it is being written."""
        try:
            holder = json.loads(os.pread(self.fd, 65_536, 0) or b"{}")
        except ValueError:
            return {}
        return holder if isinstance(holder, dict) else {}

    def write(self, holder: dict[str, Any]) -> None:
        """Say who holds the lock."""
        text = json.dumps(holder).encode()
        os.pwrite(self.fd, text, 0)
        os.ftruncate(self.fd, len(text))


class Log:
    """An appended file of bounded size: when full it becomes the one older file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file: IO[bytes] = path.open("ab", buffering=0)

    def write(self, text: bytes) -> None:
        """Append ``text``. A full disk loses it: the server must not stop for its log."""
        with contextlib.suppress(OSError):
            if self.file.tell() + len(text) > LOG_BYTES:
                self.path.replace(self.path.with_name(self.path.name + ".1"))
                self.file.close()
                self.file = self.path.open("ab", buffering=0)
            self.file.write(text)


def main(order: Order) -> int:
    """Lock, start, watch, stop. Returns the exit status."""
    data = Path(order.data)
    os.umask(0o077)  # what is made here, and by the server, is nobody else's to read
    wake = _signals_as_bytes()
    try:
        lock = LockFile(order)
        # Whoever held it before is gone, so what it left behind is nobody's.
        _remove_runtime(lock.acquire().get("runtime"), order.sockets)
        Path(order.runtime).mkdir(mode=0o700)
        holder = {
            "service_pid": order.service_pid,
            "guard_pid": os.getpid(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
            "runtime": order.runtime,
        }
        lock.write(holder)
        (data / order.directory).mkdir(mode=0o700, exist_ok=True)
        log = Log(data / order.log)
        try:
            server = _start(order, lock.fd)
        except OSError:
            _remove_runtime(order.runtime, order.sockets)
            raise
    except (OSError, Refused) as error:
        _answer(f"refused {error}")
        return 1
    _answer(f"started {server.pid}")
    _listen(server, log, wake)
    lock.write(holder | {"stopping": True})
    _stop(server, log, wake, order.stop)
    _remove_runtime(order.runtime, order.sockets)
    return 0


def _start(order: Order, lock_fd: int) -> subprocess.Popen[bytes]:
    """The server as our child, with a pipe for what it says and the lock inherited."""
    guard_pid = os.getpid()
    prctl = getattr(ctypes.CDLL(None), "prctl", None)  # Linux has it, macOS does not
    if prctl is not None:  # children of a server that was killed become ours, see _end_orphans
        prctl(_PR_SET_CHILD_SUBREAPER, 1)

    def die_with_guard() -> None:
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, order.stop[0][0])
            if os.getppid() != guard_pid:
                os._exit(1)

    return subprocess.Popen(
        order.command,
        env=order.environ | os.environ,
        # The server is started in its directory, so that it is told no path that needs quotes.
        cwd=Path(order.data, order.directory),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=(lock_fd,),
        preexec_fn=die_with_guard,  # this process has one thread
    )


def _listen(
    server: subprocess.Popen[bytes], log: Log, wake: int, seconds: float | None = None
) -> None:
    """Write the server's words down until it ends, or until ``seconds`` are over.

    Without ``seconds`` also until our input ends, or a signal asks us to stop.
    """
    assert server.stdout is not None
    said = server.stdout.fileno()
    until = None if seconds is None else time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        for source in (said, wake) if until is not None else (said, wake, 0):
            selector.register(source, selectors.EVENT_READ)
        while server.poll() is None:
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                return
            for key, _ in selector.select(left):
                text = os.read(key.fd, 65_536)
                if key.fd == said:
                    log.write(text)
                    if not text:
                        selector.unregister(said)
                elif until is None and (not text if key.fd == 0 else set(text) != {signal.SIGCHLD}):
                    return


def _stop(
    server: subprocess.Popen[bytes], log: Log, wake: int, steps: list[tuple[int, float]]
) -> None:
    """End the server: ever less gently, and at last by killing it."""
    assert server.stdout is not None
    for number, seconds in steps:
        if server.poll() is None:
            server.send_signal(number)
            _listen(server, log, wake, seconds)
    if server.poll() is None:
        log.write(b"guard: the server did not stop in time and was killed\n")
        server.kill()
    status = server.wait()
    _end_orphans()
    os.set_blocking(server.stdout.fileno(), False)
    with contextlib.suppress(BlockingIOError):
        while text := os.read(server.stdout.fileno(), 65_536):
            log.write(text)
    if status:
        log.write(f"guard: the server ended with status {status}\n".encode())


def _end_orphans() -> None:
    """Kill what a server left that did not end its own children: some may be frozen."""
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    while children.exists() and (orphans := children.read_text().split()):
        for pid in map(int, orphans):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _signals_as_bytes() -> int:
    """The read end of a pipe that gets the number of each signal that tells us something."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    # A service that is gone reads no answer; that shows at our input, not as a deadly signal.
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    return reader


def _answer(line: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(1, (" ".join(line.split()) + "\n").encode())


def _stdin_ended(seconds: float) -> bool:
    """Wait up to ``seconds`` for the end of our input."""
    with selectors.DefaultSelector() as selector:
        selector.register(0, selectors.EVENT_READ)
        return bool(selector.select(seconds)) and not os.read(0, 1)


def _is_alive(pid: object) -> bool:
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _remove_runtime(named: object, sockets: list[str]) -> None:
    """Remove a socket directory that is ours, and nothing else than its sockets with it."""
    if not isinstance(named, str) or not Path(named).name.startswith(RUNTIME_PREFIX):
        return
    with contextlib.suppress(OSError):
        # Root's may belong to the user that the server runs as.
        if os.getuid() in (0, os.lstat(named).st_uid):
            for socket in sockets:
                Path(named, socket).unlink(missing_ok=True)
            os.rmdir(named)


if __name__ == "__main__":
    sys.exit(main(Order(**json.loads(sys.argv[1]))))

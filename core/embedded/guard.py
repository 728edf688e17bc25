"""The process between the service and its private server, so that no server is left behind.

Run as a script, in a session of its own, with the standard library alone:

    guard.py DATA RUNTIME SERVICE_PID PROGRAM [ARGUMENT…]

It takes the lock on DATA, makes RUNTIME for the server's socket, starts the server in
DATA/valkey, writes what that says to DATA/valkey.log, and stops it when its own standard input
ends: that is when the service closed it, or is gone by whatever death. It answers on standard
output, with one line:

    started               the server runs
    refused REASON        it does not, and REASON says why

The lock is held by the guard *and* by the server, which inherits it. So it is free only when
both are gone, even if one of them was killed. Its file says who holds it.
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
from typing import IO, Any

LOCK_NAME = "lock"
LOG_NAME = "valkey.log"
SERVER_DIRECTORY = "valkey"
SOCKET_NAME = "valkey.sock"
RUNTIME_PREFIX = "stockade-"
LOG_BYTES = 1 << 20  # per file, and one older file is kept: a year of a calm server's notices
ORPHAN_SECONDS = 10.0  # how long a start waits for an orphan to end
STOP_SECONDS = 8.0  # then the server is killed; less than a start waits for it
POLL_SECONDS = 0.05
# A service that dies and a start that follows at once: the guard may not have noticed yet.
NOTICE_SECONDS = 0.5
# A script allocates and frees hundreds of small strings at once; glibc keeps only 7 of a size at
# hand. With 8,000 the server commits about a fifth more reservations a second. Other C libraries
# ignore this.
_MALLOC = "glibc.malloc.tcache_count=8000"
_PR_SET_PDEATHSIG = 1


class Refused(Exception):
    """The server cannot be started; the message is one line."""


class LockFile:
    """DATA/lock: an flock that says who holds it, and whether that one is on its way out."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.fd = os.open(data / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)

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
                    raise Refused("the service ended while its store was starting") from None
            else:
                return self.read()

    def _refuse_unless_orphaned(self, holder: dict[str, Any], waited: float) -> None:
        alive = _is_alive(holder.get("service_pid")) and _is_alive(holder.get("guard_pid"))
        if not alive or holder.get("stopping"):
            if waited < ORPHAN_SECONDS:
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


def main(arguments: list[str]) -> int:
    """Lock, start, watch, stop. Returns the exit status."""
    data, runtime, service_pid = Path(arguments[0]), Path(arguments[1]), int(arguments[2])
    wake = _signals_as_bytes()
    try:
        lock = LockFile(data)
        # Whoever held it before is gone, so what it left behind is nobody's.
        _remove_runtime(lock.acquire().get("runtime"))
        runtime.mkdir(mode=0o700)
        holder = {
            "service_pid": service_pid,
            "guard_pid": os.getpid(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
            "runtime": str(runtime),
        }
        lock.write(holder)
        (data / SERVER_DIRECTORY).mkdir(mode=0o700, exist_ok=True)
        log = Log(data / LOG_NAME)
        try:
            server = _start(arguments[3:], data / SERVER_DIRECTORY, lock.fd)
        except OSError:
            _remove_runtime(str(runtime))
            raise
    except (OSError, Refused) as error:
        _answer(f"refused {error}")
        return 1
    _answer("started")
    _watch(server, log, wake)
    lock.write(holder | {"stopping": True})
    _stop(server, log)
    _remove_runtime(str(runtime))
    return 0


def _start(command: list[str], directory: Path, lock_fd: int) -> subprocess.Popen[bytes]:
    """The server as our child, with a pipe for what it says and the lock inherited."""
    guard_pid = os.getpid()
    prctl = getattr(ctypes.CDLL(None), "prctl", None)  # Linux has it, macOS does not

    def die_with_guard() -> None:
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != guard_pid:
                os._exit(1)

    return subprocess.Popen(
        command,
        env={"GLIBC_TUNABLES": _MALLOC, **os.environ},
        cwd=directory,  # so that the server is told no path that it would have to quote
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=(lock_fd,),
        preexec_fn=die_with_guard,  # this process has one thread
    )


def _watch(server: subprocess.Popen[bytes], log: Log, wake: int) -> None:
    """Write the server's words down until it ends, our input ends, or a signal comes."""
    assert server.stdout is not None
    with selectors.DefaultSelector() as selector:
        for source in (0, wake, server.stdout.fileno()):
            selector.register(source, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                text = os.read(key.fd, 65_536)
                if key.fd == server.stdout.fileno() and text:
                    log.write(text)
                elif key.fd != 0 or not text:
                    return


def _stop(server: subprocess.Popen[bytes], log: Log) -> None:
    """End the server: it closes its log of writes on SIGTERM; one that hangs is killed."""
    server.terminate()
    try:
        said, _ = server.communicate(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        log.write(b"guard: the server did not stop in time and was killed\n")
        server.kill()
        said, _ = server.communicate()
    log.write(said)
    if server.returncode:
        log.write(f"guard: the server ended with status {server.returncode}\n".encode())


def _signals_as_bytes() -> int:
    """The read end of a pipe that gets a byte for each signal that asks us to stop."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
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


def _remove_runtime(named: object) -> None:
    """Remove a socket directory that is ours, and nothing else than its socket with it."""
    if not isinstance(named, str) or not Path(named).name.startswith(RUNTIME_PREFIX):
        return
    with contextlib.suppress(OSError):
        if os.lstat(named).st_uid == os.getuid():
            Path(named, SOCKET_NAME).unlink(missing_ok=True)
            os.rmdir(named)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

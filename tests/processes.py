"""What tests that start processes share: a service from the command line, and patience."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).parent.parent
PATIENCE_SECONDS = 180.0  # longer than any server of ours is given to start
# A disk or a core of a busy machine may be away for seconds: only tests of that shall hear 503.
PATIENT = {
    "STOCKADE_STORE_TIMEOUT_SECONDS": "30",
    "STOCKADE_WAIT_MS": "30000",
    "STOCKADE_DRAIN_SECONDS": "30",
    "STOCKADE_LEDGER_WAIT_SECONDS": "30",
    "STOCKADE_NOTICE_SECONDS": "0",  # no balancer looks, and each would stop a second later
}


def until(true: Callable[[], bool], what: str, seconds: float = PATIENCE_SECONDS) -> None:
    """Return once ``true()`` is; fail after ``seconds``, naming ``what`` did not come about."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    """True while a process has that id, and is more than a dead one that nobody collected."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout
    return bool(state) and not state.startswith("Z")


def family(pid: int) -> list[tuple[int, str]]:
    """The children of a process and what they are called."""
    said = subprocess.run(
        ["ps", "-A", "-ww", "-o", "pid=,ppid=,stat=,args="],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = []
    for line in said.splitlines():
        child, parent, state, words = line.split(None, 3)
        if int(parent) == pid and not state.startswith("Z"):
            found.append((int(child), words))
    return found


class Service:
    """``stockade serve`` as a process that leads its own group, like one in a terminal."""

    def __init__(
        self,
        *flags: str,
        environ: dict[str, str] | None = None,
        command: Sequence[str | Path] = (sys.executable, "-m", "api.cli"),
        cwd: Path | None = None,
    ) -> None:
        # By default it keeps its data where it is started, and that shall not be the work tree.
        self._directory = tempfile.TemporaryDirectory(prefix="stockade-test-")
        self.process = subprocess.Popen(
            [*command, "serve", "--port", "0", *flags],
            cwd=cwd or self._directory.name,
            env=os.environ | PATIENT | (environ or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.lines: list[str] = []
        self._finished: tuple[int, str, list[str]] | None = None
        self._said: queue.Queue[str | None] = queue.Queue()
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()

    def __enter__(self) -> Service:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        self.finish()
        self._directory.cleanup()

    def _listen(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._said.put(line.rstrip("\n"))
        self._said.put(None)

    def url(self) -> str:
        """Where it listens, once it does."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("listening on http"), (line, self.finish())
        return line.removeprefix("listening on ").strip()

    def hears(self, words: str) -> str:
        """The next line of standard error with ``words`` in it."""
        while True:
            line = self._said.get(timeout=PATIENCE_SECONDS)
            assert line is not None, f"it ended without saying {words!r}: {self.lines}"
            self.lines.append(line)
            if words in line:
                return line

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the supervisor alone."""
        self.process.send_signal(number)

    def finish(self) -> tuple[int, str, list[str]]:
        """The exit status, the rest of standard output, and all lines of standard error."""
        if self._finished is None:
            assert self.process.stdout is not None
            assert self.process.stderr is not None
            with self.process.stdout, self.process.stderr:
                rest = self.process.stdout.read()
                self._finished = self.process.wait(PATIENCE_SECONDS), rest, self.lines
                self._listener.join()
            while not self._said.empty():
                line = self._said.get()
                if line is not None:
                    self.lines.append(line)
        return self._finished

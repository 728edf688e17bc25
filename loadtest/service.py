"""A service of the harness's own: started on a free port with fresh data, stopped at the end."""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

START_S = 180
STOP_S = 90
GREETING = "listening on "
LOG_TAIL_LINES = 20


class ServiceFailed(Exception):
    """The harness's own service did not start, or did not stop as it should."""


@dataclass(frozen=True, slots=True)
class Running:
    """A service: where it is, and which process it is if it is the harness's own."""

    url: str
    pid: int | None = None

    def memory_mib(self) -> float | None:
        """The memory of all its processes, with the stores'; None if it is not known.

        Pages that they share are divided among them (PSS).
        """
        if self.pid is None or sys.platform != "linux":
            return None
        return sum(map(_pss_kib, _family(self.pid))) / 1024


def _family(pid: int) -> list[int]:
    """A process and all that come from it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError, IndexError):  # it may end meanwhile
                parent = int((entry / "stat").read_text().rpartition(") ")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


def _pss_kib(pid: int) -> int:
    with suppress(OSError):  # it may end meanwhile
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0


@asynccontextmanager
async def own_service(workers: int) -> AsyncIterator[Running]:
    """Start a service. Raises ServiceFailed if it does not start or stop well."""
    with tempfile.TemporaryDirectory(prefix="stockade-loadtest-") as name:
        directory = Path(name)
        log = directory / "service.log"
        with log.open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "api.cli", "serve", "--port", "0"),
                *("--data", str(directory / "data"), "--workers", str(workers)),
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
            )
        assert process.stdout is not None
        reading: asyncio.Task[None] | None = None
        try:
            url = await _greeting(process, log)
            reading = asyncio.create_task(_drain(process.stdout))
            yield Running(url, process.pid)
        finally:
            code = await _stop(process)
            if reading is not None:
                await reading
        if code:
            raise ServiceFailed(f"the service ended with {code}:\n{_tail(log)}")


async def _greeting(process: asyncio.subprocess.Process, log: Path) -> str:
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_S):
            async for line in process.stdout:
                text = line.decode("utf-8", "replace").strip()
                if text.startswith(GREETING):
                    return text.removeprefix(GREETING)
    except TimeoutError:
        raise ServiceFailed(f"no greeting within {START_S} s:\n{_tail(log)}") from None
    raise ServiceFailed(f"the service ended before it was ready:\n{_tail(log)}")


async def _drain(stream: asyncio.StreamReader) -> None:
    """Read on, so that the service never waits for its output to be read."""
    while await stream.read(65_536):
        pass


async def _stop(process: asyncio.subprocess.Process) -> int:
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(STOP_S):
            return await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise ServiceFailed(f"the service did not stop within {STOP_S} s of SIGTERM") from None


def _tail(log: Path) -> str:
    lines = log.read_text("utf-8", "replace").splitlines()
    return "\n".join(lines[-LOG_TAIL_LINES:])

"""A whole service with private servers, whose processes a test kills, freezes and starts again."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import redis

from core.embedded import postgres, valkey
from core.embedded.postgres import Addresses, EmbeddedPostgres
from core.embedded.valkey import EmbeddedValkey
from core.settings import Settings, encode
from core.sheets import SCRIBE_SHEET, Book
from tests.audit import audit
from tests.databases import postmaster
from tests.faults.callers import Callers, Client, Held, Tally, check_held, check_keys, furnish
from tests.holders import children
from tests.ledgered import audit_ledger
from tests.processes import Service, family, is_running, until
from tests.stored import Record, parse_record

WORKERS = 2
AGAIN_SECONDS = 0.5  # between the death of everything and the next start
# Short, so that a test sees what comes of them; towards the store it is as impatient as ever.
ENVIRON = {
    "STOCKADE_LEDGER_WAIT_SECONDS": "1", "STOCKADE_LEDGER_TIMEOUT_SECONDS": "3",
    "STOCKADE_STORE_TIMEOUT_SECONDS": "", "STOCKADE_WAIT_MS": "",
}  # fmt: skip


class Stage:
    """``stockade serve`` on a directory of its own. Its processes are named by what they do."""

    def __init__(self, data: Path, **environ: str) -> None:
        self.data = data
        self.spoiled = False
        self.faults = 0
        self._environ = ENVIRON | environ
        self._told = Tally()
        self._running = ExitStack()
        self._callers: list[Callers] = []
        self.service = self._serve()
        try:
            self.url = self.service.url()
            furnish(self.url)
        except BaseException:
            self.close()
            raise

    def _serve(self) -> Service:
        flags = ("--data", str(self.data), "--workers", str(WORKERS))
        return self._running.enter_context(Service(*flags, environ=self._environ))

    # --- processes -------------------------------------------------------------------------------

    @property
    def store_url(self) -> str:
        """The address of its store."""
        found = valkey.find_running(self.data)
        assert found is not None, "no store runs"
        return found

    @property
    def addresses(self) -> Addresses:
        """The two addresses of its ledger, its own or the one that it was given."""
        if "STOCKADE_POSTGRES_DSN" in self._environ:
            return Addresses(
                self._environ["STOCKADE_POSTGRES_DSN"], self._environ["STOCKADE_POSTGRES_OWNER_DSN"]
            )
        found = postgres.find_running(self.data)
        assert found is not None, "no ledger runs"
        return found

    def workers(self) -> list[int]:
        """Its workers."""
        return [pid for pid, words in family(self.service.process.pid) if "api.worker" in words]

    def scribe(self) -> int:
        """Its scribe; waits until there is one."""
        return _one(lambda: [
            pid for pid, words in family(self.service.process.pid) if "api.scribe" in words
        ])  # fmt: skip

    def valkey(self) -> int:
        """Its Valkey."""
        return _one(lambda: children(self._guard(EmbeddedValkey.lock_name)))

    def postmaster(self) -> int:
        """Its PostgreSQL."""
        found = EmbeddedPostgres.running_socket(self.data)
        assert found is not None
        return postmaster(found)

    def backends(self) -> list[int]:
        """The processes of PostgreSQL that serve our connections."""
        return [
            pid for pid, words in family(self.postmaster())
            if words.startswith("postgres: stockade stockade")
        ]  # fmt: skip

    def _guard(self, lock: str) -> int:
        return int(json.loads((self.data / lock).read_text())["guard_pid"])

    # --- faults ----------------------------------------------------------------------------------

    def kill(self, *pids: int) -> None:
        """SIGKILL; returns when they are gone."""
        self.faults += 1
        for pid in pids:
            with suppress(ProcessLookupError):  # another one's death may have taken it along
                os.kill(pid, signal.SIGKILL)
        until(lambda: not any(map(is_running, pids)), f"processes {pids} are gone")

    @contextmanager
    def frozen(self, *pids: int) -> Iterator[None]:
        """They stand still meanwhile."""
        self.faults += 1
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                with suppress(ProcessLookupError):  # it was killed as it stood
                    os.kill(pid, signal.SIGCONT)

    def all_of_postgres(self) -> list[int]:
        """The postmaster and all its children."""
        main = self.postmaster()
        return [main, *children(main)]

    def kill_all(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Everything at once: supervisor, workers, scribe, guards, servers; and starts it again on
        the same directory half a second later. ``meanwhile``: what else befalls it."""
        main = self.service.process.pid
        guards = [self._guard(EmbeddedValkey.lock_name)]
        servers = [self.valkey()]
        with suppress(FileNotFoundError):
            guards.append(self._guard(EmbeddedPostgres.lock_name))
            servers += self.all_of_postgres()
        pids = [main, *(pid for pid, _ in family(main)), *guards, *servers]
        self.kill(*dict.fromkeys(pids))
        self._running.close()
        meanwhile()
        again = time.monotonic() + AGAIN_SECONDS
        until(lambda: time.monotonic() >= again, "half a second has passed")
        self.restart()

    def stop(self) -> None:
        """Stops the service as an operator does."""
        self.service.signal(signal.SIGTERM)
        self.ended()

    def ended(self) -> None:
        """Returns when the service has ended that was told to."""
        status, _, lines = self.service.finish()
        self._running.close()
        assert status == 0, (status, lines)

    def restart(self) -> None:
        """Starts it on its data."""
        self.service = self._serve()
        self.url = self.service.url()

    @contextmanager
    def second_scribe(self) -> Iterator[None]:
        """Another scribe writes as well, with the same settings."""
        self.faults += 1
        dsn, owner_dsn = self.addresses
        settings = Settings(
            data=self.data, valkey_url=self.store_url, postgres_dsn=dsn,
            postgres_owner_dsn=owner_dsn, log_level="error",
        )  # fmt: skip
        ours, theirs = socket.socketpair()
        book = Book()
        words = [sys.executable, "-P", "-m", "api.scribe", str(book.descriptor), str(SCRIBE_SHEET)]
        with ours:
            with theirs:
                process = subprocess.Popen(
                    words, stdin=theirs.fileno(), pass_fds=(book.descriptor,)
                )
            ours.sendall(encode(settings) + b"\n")
            assert ours.makefile().readline() == "ready\n"
            yield
        assert process.wait(30) == 0  # our end is closed: it writes what there is, and ends

    # --- what must be ----------------------------------------------------------------------------

    def callers(self, seed: object, ledger: bool = True) -> Callers:
        """People who order and settle from now on."""
        self._callers.append(Callers(lambda: self.url, seed, ledger))
        return self._callers[-1]

    def meta(self, name: str) -> int:
        """A number of its store: ``epoch``, ``seq`` of the last event, the ledger's ``mark``."""
        with redis.Redis.from_url(self.store_url) as plain:
            return int(plain.hget("{s0}:meta", name) or 0)

    def rebuilt(self, epoch: int) -> bool:
        """True if its store is whole again, in an epoch after this one."""
        with redis.Redis.from_url(self.store_url) as plain:
            now, rebuilding = plain.hmget("{s0}:meta", "epoch", "rebuilding")
        return int(now or 0) > epoch and not rebuilding

    def ready(self) -> bool:
        """True if it says so."""
        client = Client(lambda: self.url)
        reply = client.ask("GET", "/readyz")
        client.close()
        return reply is not None and reply.status == 200

    def readiness(self) -> Any:
        """What /readyz shows."""
        client = Client(lambda: self.url)
        reply = client.ask("GET", "/readyz")
        client.close()
        assert reply is not None
        return reply.body

    def check(self, callers: Callers, dice: random.Random) -> str:
        """Has the callers finish; then all laws, the ledger against the store, every answer against
        both, and keys once more. In words what was seen."""
        self.told(callers)
        lost, words = self.audit(dice)
        assert not lost, lost[:10]
        return words

    def told(self, callers: Callers) -> None:
        """Has the callers finish, and remembers what they were told."""
        told = callers.stop()
        self._told.counts += told.counts
        self._told.answers += told.answers
        self._told.held |= told.held

    def told_of(self, client: Client, *ids: str) -> None:
        """Somebody else's reservations, as they are now."""
        for id in ids:
            reply = client.ask("GET", f"/v1/reservations/{id}")
            assert reply is not None
            self._told.held[id] = Held(reply.body["state"], reply.body["version"], 0)

    def audit(self, dice: random.Random, older: bool = False) -> tuple[list[str], str]:
        """The reservations that are less than they were told to be, which is forgotten then; and in
        words what was seen. All else must be as it should. ``older``: the ledger itself is one of
        before, so that even what it was told to have may be missing."""
        until(self.ready, "ready")
        told = self._told
        if older:
            for held in told.held.values():
                held.sure = 0
        in_loop(lambda: audit(self.store_url))
        rows = in_loop(lambda: audit_ledger(self.addresses.dsn, self.store_url))
        lost = check_held(told, in_loop(self._records))
        told.answers = [each for each in told.answers if each.id not in lost]
        replayed = check_keys(told, self.url, dice)
        counts = ", ".join(f"{count} {name}" for name, count in sorted(told.counts.items()))
        told.answers.clear()
        return lost, (
            f"{self.faults} faults; told: {counts}; {len(lost)} lost; {replayed} keys again; "
            f"{rows['reservation']} reservations and {rows['movement']} movements in the ledger"
        )

    async def _records(self) -> dict[str, Record]:
        """All reservations, which the ledger has: it was held against the store."""
        connection = await asyncpg.connect(self.addresses.dsn)
        rows = await connection.fetch("SELECT id::text AS id, record FROM stockade.reservation")
        await connection.close()
        return {row["id"]: parse_record(row["record"]) for row in rows}

    def close(self) -> None:
        """Ends it, whatever state it is in."""
        for callers in self._callers:
            callers.abandon()
        self._running.close()


def in_loop(call: Callable[[], Any]) -> Any:
    """The result of a coroutine, from a test that has no loop."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(call())


def _one(look: Callable[[], list[int]]) -> int:
    """The one process that there is, or will be in a moment."""
    found: list[int] = []

    def there() -> bool:
        found[:] = look()
        return len(found) == 1

    until(there, "there is one")
    return found[0]

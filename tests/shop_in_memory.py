"""The contract in memory, as far as a replay needs it: for tests of the load-test harness alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

Line = dict[str, Any]
Held = dict[str, Any]


class Shop:
    """``fault`` names what it does wrong.

    ``pools`` holds accounts by name, ``credits`` what parties of a pool are owed, in millionths.
    """

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        self.floors: dict[str, dict[str, int]] = {}
        self.pools: dict[tuple[str, str], dict[str, int]] = {}
        self.credits: dict[tuple[str, str], dict[str, int]] = {}
        self.reservations: dict[str, Held] = {}
        self.answered: dict[tuple[str, str], web.Response] = {}
        self.asked = 0

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self.idempotency])
        app.router.add_put("/v1/{kind}/{name}", self.put)
        app.router.add_post("/v1/stock/receive", self.receive)
        app.router.add_get("/v1/stock", self.stock)
        app.router.add_get("/readyz", self.ready)
        app.router.add_get("/v1/movements", self.movements)
        app.router.add_get("/v1/reservations", self.listed)
        app.router.add_post("/v1/reservations", self.reserve)
        app.router.add_post("/v1/reservations/{id}/{verb}", self.verb)
        app.router.add_get("/v1/reservations/{id}", self.read)
        return app

    @web.middleware
    async def idempotency(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        self.asked += 1
        key = request.path, request.headers.get("Idempotency-Key", "")
        if key in self.answered and self.fault != "repeats":
            first = self.answered[key]
            return web.Response(
                status=first.status, body=first.body, headers={"Idempotent-Replayed": "true"}
            )
        answer = await handler(request)
        assert isinstance(answer, web.Response)
        if key[1] and answer.status < 400 and '"status": 503' not in (answer.text or ""):
            self.answered[key] = answer
        if self.fault == "loses answers" and self.asked % 7 == 0:
            return web.Response(status=503, headers={"Retry-After": "0"})
        return answer

    async def put(self, request: web.Request) -> web.Response:
        if request.match_info["kind"] == "channels":
            spec = await request.json()
            for location in spec["locations"]:
                share = round(spec["floor_share"] * 1_000_000)
                self.floors.setdefault(location, {})[request.match_info["name"]] = share
        return web.json_response({}, status=201)

    async def receive(self, request: web.Request) -> web.Response:
        lines = (await request.json())["lines"]
        busy = len(lines) - len(lines) // 2 if self.fault == "busy lines" and not self.pools else 0
        for line in lines[: len(lines) - busy]:
            if (line["sku"], line["location"]) in self.pools:  # sent again; its key is known
                continue
            accounts = {"shared": 0, "damaged": 0, "quarantine": 0}
            for name in self.floors[line["location"]]:
                accounts |= {f"free {name}": 0, f"reserved {name}": 0, f"committed {name}": 0}
            self.pools[line["sku"], line["location"]] = accounts
            self.receipt(line["sku"], line["location"], line["quantity"])
            if self.fault == "quota":
                name = next(name for name in accounts if name.startswith("free "))
                self.move(accounts, name, "shared", min(1, accounts[name]))
        results: list[dict[str, Any]] = [{"status": 200, "pool": {}}] * (len(lines) - busy)
        results += [{"status": 503, "problem": {"code": "overloaded"}}] * busy
        return web.json_response({"results": results})

    def receipt(self, sku: str, location: str, units: int) -> None:
        """Units arrive one by one, each for the party that is owed most; the shared part last."""
        credits = self.credits.setdefault((sku, location), {})
        shares = dict(sorted(self.floors[location].items()))
        parties = {f"free {name}": share for name, share in shares.items()}
        parties["shared"] = 1_000_000 - sum(shares.values())
        for party, share in parties.items():
            credits[party] = credits.get(party, 0) + units * share
        for _ in range(units):
            party = max(parties, key=lambda party: credits[party])
            credits[party] -= 1_000_000
            self.pools[sku, location][party] += 1

    async def reserve(self, request: web.Request) -> web.Response:
        body = await request.json()
        channel = body["channel"]
        lines = self.planned(channel, body["lines"])
        if lines is None:
            return self.refusal()
        for line in lines:
            self.take(channel, "reserved", line)
        id = f"r{len(self.reservations)}"
        held = {"id": id, "state": "reserved", "version": 1, "channel": channel, "lines": lines}
        held["reference"] = body["reference"]
        self.reservations[id] = held
        if "ttl_seconds" in body and self.fault != "never expires":
            asyncio.get_running_loop().call_later(body["ttl_seconds"], self.expire, id)
        return web.json_response(held, status=201)

    def planned(self, channel: str, wanted: list[Line]) -> list[Line] | None:
        """The lines of a reservation, own units first; None if there is too little."""
        lines = []
        for line in wanted:
            pool = self.pools.get((line["sku"], line["location"]), {"shared": 0})
            free, shared = pool.get(f"free {channel}", 0), pool["shared"]
            own = min(line["quantity"], free)
            if line["quantity"] > free + shared:
                if self.fault != "oversells" or not free:
                    return None
                own = line["quantity"] - shared
            borrowed = line["quantity"] - own
            counters = {"fulfilled": 0, "cancelled": 0, "returned": 0}
            lines.append({**line, "own": own, "borrowed": borrowed, **counters})
        return lines

    @staticmethod
    def refusal() -> web.Response:
        problem = {"code": "insufficient_stock", "lines": [{"limited_by": "on_hand"}]}
        return web.json_response(problem, status=409)

    async def verb(self, request: web.Request) -> web.Response:
        held, verb = self.reservations[request.match_info["id"]], request.match_info["verb"]
        body = await request.json() if request.can_read_body else {}
        if verb == "amend":
            return self.amend(held, body["lines"])
        if self.fault == "loses a commit" and held["id"] == "r3" and verb == "fulfil":
            shipped = [{**line, "fulfilled": line["quantity"]} for line in held["lines"]]
            return web.json_response(
                {**held, "state": "fulfilled", "version": 99, "lines": shipped}
            )
        held["version"] += 1
        if verb == "release":
            held["state"] = "released"
            self.give_all(held, "reserved")
        elif verb == "commit":
            held["state"] = "committed"
            for line in held["lines"]:
                pool = self.pools[line["sku"], line["location"]]
                name = held["channel"]
                self.move(pool, f"reserved {name}", f"committed {name}", line["quantity"])
        else:
            for part in body.get("lines") or [{}]:
                self.part(held, verb, part)
            held["state"] = self.settled(held["lines"])
        return web.json_response(held)

    def part(self, held: Held, verb: str, part: Line) -> None:
        """Cancel, fulfil or return what ``part`` says; an empty one is all that is open."""
        channel, rest = held["channel"], part.get("quantity", 2**31)
        for line in held["lines"]:
            if line["sku"] != part.get("sku", line["sku"]):
                continue
            if line["location"] != part.get("location", line["location"]):
                continue
            pool, committed = self.pools[line["sku"], line["location"]], f"committed {channel}"
            ends = line["fulfilled"] + line["cancelled"]
            if verb == "return":
                units = min(rest, line["fulfilled"] - line["returned"])
                self.come_back(line, units, part["disposition"])
                line["returned"] += units
            elif verb == "fulfil":
                units = min(rest, line["quantity"] - ends)
                ships = units
                if self.fault == "ships what was cancelled":
                    ships = line["quantity"]
                pool[committed] -= ships
                line["fulfilled"] += units
            else:
                units = min(rest, line["quantity"] - ends)
                lent = min(units, line["borrowed"] - min(line["cancelled"], line["borrowed"]))
                account = "shared"
                if self.fault == "gives what was borrowed to the quota":
                    account = f"free {channel}"
                self.move(pool, committed, account, lent)
                self.move(pool, committed, f"free {channel}", units - lent)
                if self.fault == "loses what was cancelled":
                    pool[f"free {channel}"] -= units - lent
                if self.fault != "does not count what was cancelled":
                    line["cancelled"] += units
            rest -= units

    def come_back(self, line: Line, units: int, disposition: str) -> None:
        pool = self.pools[line["sku"], line["location"]]
        if self.fault == "sells what is damaged" and disposition == "damaged":
            disposition = "restock"
        if self.fault == "counts returns twice":
            units *= 2
        if disposition != "restock":
            pool[disposition] += units
        elif self.fault == "restocks for all":
            pool["shared"] += units
        elif units:
            self.receipt(line["sku"], line["location"], units)

    def amend(self, held: Held, wanted: list[Line]) -> web.Response:
        channel, account, old = held["channel"], held["state"], held["lines"]
        fewer = sum(line["quantity"] for line in old) > sum(line["quantity"] for line in wanted)
        for line in old:
            self.take(channel, account, line, -1)
        lines = self.planned(channel, wanted)
        if lines is None or (fewer and self.fault == "refuses to shrink"):
            if self.fault == "shrinks what it refuses" and len(old) > 1:
                old.pop()
            for line in old:
                self.take(channel, account, line)
            return self.refusal()
        for line in lines:
            self.take(channel, account, line)
        if self.fault == "loses what an amend gives back" and fewer:
            kept = {line["sku"] for line in lines}
            for line in old:
                if line["sku"] not in kept:
                    self.pools[line["sku"], line["location"]][f"free {channel}"] -= line["own"]
        held["version"] += 1
        if self.fault == "amends the answer only":
            return web.json_response({**held, "lines": lines})
        held["lines"] = lines
        return web.json_response(held)

    @staticmethod
    def settled(lines: list[Line]) -> str:
        ends = [line["fulfilled"] + line["cancelled"] for line in lines]
        if ends != [line["quantity"] for line in lines]:
            return "committed"
        shipped = sum(line["fulfilled"] for line in lines)
        if not shipped:
            return "cancelled"
        return "returned" if shipped == sum(line["returned"] for line in lines) else "fulfilled"

    async def read(self, request: web.Request) -> web.Response:
        id = request.match_info["id"]
        if self.fault == "loses a reservation" and id == "r5":
            return web.json_response({"code": "unknown_reservation"}, status=404)
        held = self.reservations[id]
        if self.fault == "forgets what came back":
            held = {**held, "lines": [{**line, "returned": 0} for line in held["lines"]]}
        return web.json_response(held)

    async def ready(self, request: web.Request) -> web.Response:
        return web.json_response({"store": {"seq": self.asked}})

    async def movements(self, request: web.Request) -> web.Response:
        """As if each account had been filled at once."""
        items = [
            {
                "verb": "receive",
                "sku": sku,
                "location": location,
                "quantity": units,
                "from": "outside",
                "to": account.replace(" ", ":"),
            }
            for (sku, location), accounts in self.pools.items()
            if location == request.query.get("location")
            for account, units in accounts.items()
            if units and not (self.fault == "forgets a movement" and account == "shared")
        ]
        return self.page(request, items)

    async def listed(self, request: web.Request) -> web.Response:
        """Reservations as the ledger has them."""
        location = request.query["location"]
        items = [
            held
            for held in self.reservations.values()
            if any(line["location"] == location for line in held["lines"])
        ]
        if self.fault == "reserves what nobody asked for":
            items += [{**items[0], "id": "r-more"}]
        return self.page(request, items)

    def page(self, request: web.Request, items: list[Any]) -> web.Response:
        start, limit = int(request.query.get("cursor", 0)), int(request.query["limit"])
        following = str(start + limit) if start + limit < len(items) else None
        return web.json_response(
            {
                "items": items[start : start + limit],
                "next_cursor": following,
                "as_of_seq": self.asked,
            }
        )

    async def stock(self, request: web.Request) -> web.Response:
        skus = request.query.getall("sku", [])
        listed = [pool for pool in sorted(self.pools) if not skus or pool[0] in skus]
        if self.fault == "loses a pool" and self.pools:
            listed = [pool for pool in listed if pool != min(self.pools)]
        items = [{"sku": sku, "pools": [self.pool(sku, at)]} for sku, at in listed]
        return web.json_response({"items": items, "next_cursor": None})

    def pool(self, sku: str, location: str) -> dict[str, Any]:
        accounts = self.pools[sku, location]
        channels = {}
        for name in self.floors[location]:
            free = accounts[f"free {name}"]
            channels[name] = {
                "free": free,
                "reserved": accounts[f"reserved {name}"],
                "committed": accounts[f"committed {name}"],
                "available": free + accounts["shared"],
            }
        heads = {name: accounts[name] for name in ("shared", "damaged", "quarantine")}
        return {
            "location": location,
            "on_hand": sum(accounts.values()),
            "channels": channels,
            "safety": 0,
            "deficit": 0,
            **heads,
        }

    @staticmethod
    def move(pool: dict[str, int], source: str, target: str, units: int) -> None:
        pool[source] -= units
        pool[target] += units

    def take(self, channel: str, account: str, line: Line, sign: int = 1) -> None:
        """Take a line into ``account``, or give it back with ``sign`` -1."""
        pool = self.pools[line["sku"], line["location"]]
        self.move(pool, f"free {channel}", f"{account} {channel}", sign * line["own"])
        self.move(pool, "shared", f"{account} {channel}", sign * line["borrowed"])

    def give_all(self, held: Held, account: str) -> None:
        for line in held["lines"]:
            self.take(held["channel"], account, line, -1)

    def expire(self, id: str) -> None:
        held = self.reservations[id]
        held["state"] = "expired"
        held["version"] += 1
        self.give_all(held, "reserved")


@asynccontextmanager
async def serving(shop: Shop) -> AsyncIterator[str]:
    """The URL at which ``shop`` is open."""
    runner = web.AppRunner(shop.app(), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    try:
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()

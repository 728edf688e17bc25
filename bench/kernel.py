"""The planner against the reference, on the same demands; and what surrounds the planning."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from statistics import median

from bench.table import Figure
from core.kernel import reference
from core.kernel import reference_reserve as reserving
from core.kernel._plan import Batch, Demand
from core.kernel._policy import Policy, Row, Sku
from core.model import Line
from core.policy_model import ChannelSpec, SkuSpec
from core.steps import randomness

SKUS = 200
DEMANDS = 700
LINES_OF_DEMAND = (1, 2, 3, 4)
UNITS = 1_000_000
REPEATS = 20  # plans per round; one takes well under a millisecond
LOCATION = "main"
FLOORS = {"store": 0.3, "web": 0.6}
ROW = f"3 1 1 {UNITS},0,0,0,0,0 store@{UNITS},0,0,0 web@{UNITS},0,0,0"


@dataclass(frozen=True)
class Seconds:
    """What one turn over all demands took."""

    intake: float
    plan: float
    pack: float


class Case:
    """The same 700 baskets of one to four lines on 200 pools, for both planners."""

    def __init__(self, seed: int = 1) -> None:
        chance = random.Random(seed)
        names = [f"sku-{number:04d}" for number in range(SKUS)]
        self.baskets = [
            (
                chance.choice(sorted(FLOORS)),
                [
                    (sku, chance.randint(1, 5))
                    for sku in chance.sample(names, chance.choice(LINES_OF_DEMAND))
                ],
            )
            for _ in range(DEMANDS)
        ]
        self.lines = sum(len(lines) for _, lines in self.baskets)
        self._policy = Policy(
            1,
            {name: ChannelSpec(floor_share=share) for name, share in FLOORS.items()},
            {LOCATION: (True, True)},
        )
        self._skus = {
            name: Sku(name, 1, b"", SkuSpec(), (LOCATION,), {LOCATION: Row(name, LOCATION)})
            for name in names
        }
        self._batch = Batch()

    def demands(self) -> list[Demand]:
        """New demands, as the engine makes them."""
        return [
            Demand(channel, [Line(*line) for line in lines], b"%s - -" % channel.encode(), 900_000)
            for channel, lines in self.baskets
        ]

    def take_in(self, demands: list[Demand]) -> None:
        """Fresh rows, and all demands in flat arrays."""
        for sku in self._skus.values():
            sku.rows[LOCATION].text = ROW.encode()
        self._batch.begin(self._policy, self._skus)
        add = self._batch.add
        for demand in demands:
            add(demand)

    def plan(self) -> None:
        """Decides all of them."""
        if self._batch.plan() != DEMANDS:
            raise RuntimeError("there are units for every demand of this case")

    def pack(self) -> None:
        """Ids, records, rows and deltas, as the lane sends them."""
        self._batch.pack_reservations(1_700_000_000_000, randomness(DEMANDS), 0)
        self._batch.pack()

    def kernel(self) -> Seconds:
        """One turn through the compiled planner."""
        demands = self.demands()
        started = time.perf_counter()
        self.take_in(demands)
        taken_in = time.perf_counter()
        self.plan()
        planned = time.perf_counter()
        self.pack()
        return Seconds(taken_in - started, planned - taken_in, time.perf_counter() - planned)

    def reference(self) -> float:
        """One turn through the reference: seconds."""
        channels = {
            name: reference.Channel(name, (LOCATION,), round(share * reference.SHARE_ONE))
            for name, share in FLOORS.items()
        }
        policy = reference.Policy(channels, {LOCATION: True})
        skus = {name: reference.SkuPolicy(1) for name in self._skus}
        pools = {
            (name, LOCATION): reference.Pool(
                name, LOCATION, 3, 1, UNITS,
                quotas={channel: reference.Quota(UNITS) for channel in channels},
            )
            for name in self._skus
        }  # fmt: skip
        demands = [
            reserving.Demand(channel, tuple(reserving.Line(*line) for line in lines))
            for channel, lines in self.baskets
        ]
        started = time.perf_counter()
        decisions = reserving.reserve(policy, skus, pools, demands)
        seconds = time.perf_counter() - started
        if any(decision.shortfalls for decision in decisions):
            raise RuntimeError("there are units for every demand of this case")
        return seconds


async def kernel(rounds: int) -> AsyncIterator[Figure]:
    """Lines per second."""
    case = Case()
    plans, wholes, slow = [], [], []
    for _ in range(rounds):
        turns = [case.kernel() for _ in range(REPEATS)]
        plans.append(case.lines / median(turn.plan for turn in turns))
        wholes.append(case.lines / median(turn.intake + turn.plan + turn.pack for turn in turns))
        slow.append(case.lines / case.reference())
    yield Figure("kernel: lines planned/s, packed demands", plans, bar=5_000_000)
    yield Figure("kernel: planning vs reference", plans, slow, 50)
    yield Figure("kernel: intake, planning and packing vs reference", wholes, slow)

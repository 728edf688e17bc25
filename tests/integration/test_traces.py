"""What a traced operation says of its way through a real store."""

from __future__ import annotations

from core.model import Commit
from core.service import Service
from core.tracing import TRACE
from tests.workers import demand, furnish


class Kept:
    """A trace that keeps what it is told."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, float, float, dict[str, str | int]]] = []

    def span(
        self, name: str, start_ms: float, end_ms: float, attributes: dict[str, str | int]
    ) -> None:
        self.spans.append((name, start_ms, end_ms, attributes))


async def test_lane_plan_and_script_follow_each_other(worker: Service) -> None:
    await furnish(worker, {"tee": 10})
    worker.lane.meters.traced = True
    trace = Kept()
    token = TRACE.set(trace)
    receipt = await worker.engine.reserve(demand())
    await worker.engine.commit(receipt.id, Commit())
    TRACE.reset(token)
    untraced = await worker.engine.reserve(demand())
    await worker.engine.commit(untraced.id, Commit())
    names = [name for name, *_ in trace.spans]
    assert names == ["lane", "plan", "script reserve", "lane", "plan", "script commit"]
    for (_, _, end, _), (name, start, _, _) in zip(trace.spans, trace.spans[1:], strict=False):
        assert start == end or name == "lane"
    assert all(start <= end for _, start, end, _ in trace.spans)
    assert trace.spans[2][3] == {"stockade.script": "reserve", "stockade.batch_operations": 1}

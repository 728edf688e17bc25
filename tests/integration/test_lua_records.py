"""What the scripts that settle records do with a record's lines, each part tried alone."""

from __future__ import annotations

from importlib import resources

from tests.lua import PARTS, server
from tests.workers import Store

__all__ = ["server"]

RECORDS = (resources.files("core.store") / "lua" / "parts" / "records.lua").read_text()
LINES = 60
# A plan is keyed by lines, and so in the order of their addresses, which is nobody's.
BOTH_ORDERS = f"""
local r, plan = {{lines = {{}}}}, {{}}
for i = 1, {LINES} do
  r.lines[i] = {{number = i}}
  if i % 3 > 0 then plan[r.lines[i]] = 10 * i end
end
local planned, chance = {{}}, {{}}
for line, units in planned_lines(r, plan) do planned[#planned + 1] = line.number + units end
for line, units in pairs(plan) do chance[#chance + 1] = line.number + units end
return {{planned, chance}}
"""


def test_lines_are_settled_in_the_order_of_the_record(server: Store) -> None:
    """Else it were chance which of two lines of one pool pays its deficit first."""
    planned, chance = server.eval(PARTS + RECORDS + BOTH_ORDERS, 0)
    assert planned == [11 * number for number in range(1, LINES + 1) if number % 3]
    assert chance != planned, "as it was: this could not fail"
    assert sorted(chance) == planned

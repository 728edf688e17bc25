#!lua flags=allow-oom
-- commit: reserved → committed, for a batch of records, each on its own.
--
-- Guarantees: never at or after the deadline (`late` instead: the engine plans anew); units move
-- from reserved to committed of the same pools.
-- KEYS, ARGV, reply: see parts/records.lua. Argument: the new reference, encoded, or "".
-- Codes: done, already, late, state, version, gone, replay, reused, corrupt; behind done and replay
--      ` anew` if it was a late commit
-- Event commit: p rows, r records, m moves
--%include shard
--%include rows
--%include records

local stop = open_shard(KINDS)
if stop then return stop end
local AFTER = {C = true, F = true, T = true}

return settle(function(r, id, _, _, reference, wanted)
  if AFTER[r.state] then return 'already' end
  if stale(r, wanted) then return 'version' end
  if r.state == 'X' or r.state == 'L' or is_due(r) then return 'late' end
  if r.state ~= 'R' then return 'state' end
  local plan = all_open(r)
  if not plan or not all_there(r, RESERVED, plan) then return 'corrupt' end
  for line, units in planned_lines(r, plan) do
    local quota = quota_in(touch(line.pool), r.channel)
    quota[RESERVED], quota[COMMITTED] = quota[RESERVED] - units, quota[COMMITTED] + units
    note(id, line.pool, 'reserved:' .. r.channel, 'committed:' .. r.channel, units)
  end
  r.state, r.committed, r.deadline = 'C', format('%d', now), '-'
  if reference ~= '' then r.reference = reference end
  return 'done'
end, {})

#!lua flags=allow-oom
-- fulfil: committed → outside, whole or by lines, for a batch of records, each on its own.
--
-- Guarantees: never more than is open; own units leave first (it follows from the counters). If a
-- pool would hold fewer than nothing, its deficit falls: the unit was there after all.
-- KEYS, ARGV, reply: see parts/records.lua. Argument: the shipment's reference, encoded, or "".
-- Codes: done, already, quantity (detail: pool left …), state, due (a passed deadline), version,
--      gone, replay, reused, corrupt
-- Event fulfil: p rows, r records, m moves
--%include shard
--%include rows
--%include records

local stop = open_shard(KINDS)
if stop then return stop end

return settle(function(r, id, _, parts, reference, wanted)
  local open, shipped = all_open(r), 0
  for _, line in ipairs(r.lines) do shipped = shipped + line.fulfilled end
  if parts == '' and not open and shipped > 0 then return 'already' end
  if stale(r, wanted) then return 'version' end
  if r.state ~= 'C' then return is_due(r) and 'due' or 'state' end
  local plan, left = open, nil
  if parts ~= '' then
    plan, left = choose(r, parts)
    if not plan then return 'quantity', left end
  end
  if not all_there(r, COMMITTED, plan) then return 'corrupt' end
  for line, units in planned_lines(r, plan) do
    local row = touch(line.pool)
    local quota = quota_in(row, r.channel)
    quota[COMMITTED] = quota[COMMITTED] - units
    row.on_hand = row.on_hand - units
    if row.on_hand < 0 then
      note(id, line.pool, 'outside', 'deficit', -row.on_hand)
      row.head[DEFICIT], row.on_hand = row.head[DEFICIT] + row.on_hand, 0
    end
    line.fulfilled, line.open = line.fulfilled + units, line.open - units
    note(id, line.pool, 'committed:' .. r.channel, 'outside', units)
  end
  if reference ~= '' then moves[#moves + 1] = '# ' .. id .. ' ' .. reference end
  r.state = settled_state(r)
  return 'done'
end, {fulfil = true})

#!lua flags=allow-oom
-- extend: a later deadline for reservations that are alive, for a batch, each on its own.
--
-- Guarantees: only before the deadline; never an earlier deadline; the record's id stands in the
-- due list of its new second.
-- KEYS, ARGV, reply: see parts/records.lua. Argument: "deadline index-of-due-list-in-KEYS limit",
-- times in ms; past the limit the answer is `limit`.
-- Codes: done, already, limit, state, due, version, gone, replay, reused, corrupt
-- Event extend: r records
--%include shard
--%include rows
--%include records

local lists = tonumber(ARGV[HEAD + 3 + WIDTH * tonumber(ARGV[HEAD + 1])])
local kinds = {unpack(KINDS)}
for i = 10, #KEYS do kinds[i] = i > #KEYS - lists and 'list' or 'hash' end
local stop = open_shard(kinds)
if stop then return stop end
local pushes = {}

local answer = settle(function(r, id, _, _, argument, wanted)
  local deadline, list, limit = string.match(argument, '^(%d+) (%d+) (%d+)$')
  local alive = r.state == 'R' and not is_due(r)
  if alive and tonumber(deadline) <= tonumber(r.deadline) then return 'already' end
  if stale(r, wanted) then return 'version' end
  if r.state ~= 'R' then return 'state' end
  if not alive then return 'due' end
  if tonumber(deadline) > tonumber(limit) then return 'limit' end
  r.deadline = deadline
  pushes[#pushes + 1] = {KEYS[tonumber(list)], id}
  return 'done'
end, {})
for _, push in ipairs(pushes) do call('RPUSH', push[1], push[2]) end
return answer

#!lua flags=allow-oom
-- sweep: what is not reserved any more leaves the live reservations of customers.
--
-- Guarantees: only what has no record that is reserved for that customer.
-- KEYS 1 meta 2 live reservations of customers 3… buckets
-- ARGV head, then per member: index of its bucket in KEYS, id, member
-- Returns applied
-- Event: none; the ledger has what became of the reservations
--%include shard
--%include living

local stop = open_shard({'hash', 'zset', 'hash'})
if stop then return stop end
local stale = {}
for at = HEAD + 1, #ARGV, 3 do
  local id, member = ARGV[at + 1], ARGV[at + 2]
  local record = call('HGET', KEYS[tonumber(ARGV[at])], id)
  local customer = record and who_holds(record)
  if not customer or customer .. '@' .. id ~= member then stale[#stale + 1] = member end
end

call_many('ZREM', KEYS[2], stale)
return reply('applied')

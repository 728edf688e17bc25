#!lua flags=allow-oom
-- restate: a reservation's record becomes again what the ledger has, or goes if it has none.
--
-- Guarantees: the record is still the one that was found to differ; a deadline is found by the
-- reaper.
-- KEYS 1 meta 2 bucket of the record 3 due list 4 done list of this hour 5 live reservations of
--      customers
-- ARGV head, then id, record that was found ("" = none), record that it becomes ("" = none), the
--      second of its deadline or ""
-- Returns applied | conflict
-- Event: none; the record is the one that an event wrote
--%include shard
--%include living

local stop = open_shard({'hash', 'hash', 'list', 'list', 'zset'})
if stop then return stop end
local id, found, becomes, second = ARGV[11], ARGV[12], ARGV[13], tonumber(ARGV[14])
if (call('HGET', KEYS[2], id) or '') ~= found then return reply('conflict') end

if becomes == '' then call('HDEL', KEYS[2], id) else call('HSET', KEYS[2], id, becomes) end
if second then
  call('RPUSH', KEYS[3], id)
  if second < tonumber(meta[9]) then call('HSET', KEYS[1], 'cursor', format('%d', second)) end
elseif becomes ~= '' and string.sub(becomes, 1, 1) ~= 'C' then
  call('RPUSH', KEYS[4], id)
end
local customer = who_holds(found)
if customer and not second then call('ZREM', KEYS[5], customer .. '@' .. id) end
return reply('applied')

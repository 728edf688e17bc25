#!lua flags=allow-oom
-- restore: a reservation that ended and left the store comes back, as the ledger has it.
--
-- Guarantees: what is there already stays; nothing else changes.
-- KEYS 1 meta 2 bucket of the record 3 done list of this hour
-- ARGV head, then id, record
-- Returns applied
-- Event: none; the record is the one that an event wrote
--%include shard

local stop = open_shard({'hash', 'hash', 'list'})
if stop then return stop end
local id, record = ARGV[11], ARGV[12]
if call('HEXISTS', KEYS[2], id) == 0 then
  call('RPUSH', KEYS[3], id)
  call('HSET', KEYS[2], id, record)
end
return reply('applied')

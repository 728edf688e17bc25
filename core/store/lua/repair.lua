#!lua flags=allow-oom
-- repair: a pool's row that the ledger cannot explain becomes what the ledger makes of it.
--
-- Guarantees: the row is still the one that was found to differ, so nothing has touched it since.
-- KEYS 1 meta 2 pools 3 events
-- ARGV head, then pool, row that was found ("" = none), row that it becomes, the ledger's last row
--      of it, moves
-- Returns applied | conflict
-- Event repair: p row, b the ledger's last row of it, m moves (verb pool from to units reference
--      reason occurred)
--%include shard

local stop = open_shard({'hash', 'hash', 'stream'})
if stop then return stop end
local pool, found, becomes = ARGV[11], ARGV[12], ARGV[13]
if (call('HGET', KEYS[2], pool) or '') ~= found then return reply('conflict') end

append_event(KEYS[3], 'repair', 'p', pool .. '\n' .. becomes, 'b', ARGV[14], 'm', ARGV[15])
call('HSET', KEYS[2], pool, becomes)
return reply('applied')

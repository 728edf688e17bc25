#!lua flags=allow-oom
-- count: adds to what customers have what they had of a SKU before counting of it began.
--
-- Guarantees: only while counting is the one that it is for, and its past is not whole yet; so each
-- part counts once, or not at all. The scripts that change reservations count from the moment on
-- when it began, so nothing is counted twice.
-- KEYS 1 meta 2 limits 3… days of customers
-- ARGV head, then sku, its limit as it is ("number past"), as it becomes ("number" behind the last
--      part); entries × (index in KEYS of the day, that day, field, units)
-- Returns applied | conflict
-- Event: none; the ledger has what it says
--%include shard
--%include customers

local stop = open_shard({'hash'})
if stop then return stop end
local sku, before, after = ARGV[11], ARGV[12], ARGV[13]
if call('HGET', KEYS[2], sku) ~= before then return reply('conflict') end

for at = HEAD + 4, #ARGV, 4 do
  book(KEYS[tonumber(ARGV[at])], tonumber(ARGV[at + 1]), ARGV[at + 2], tonumber(ARGV[at + 3]))
end
call('HSET', KEYS[2], sku, after)
return reply('applied')

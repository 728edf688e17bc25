#!lua flags=allow-oom
-- sku: creates a SKU or changes its policy, and brings its pools under it in the same step.
--
-- Guarantees: the entry and every row are the ones that were planned on.
-- KEYS 1 meta 2 pools 3 skus 4 catalog 5 events 6 h 7 h before 8 limits
-- ARGV head, then pools, sku, old entry, new entry, key or "", value, number with which counting of
--      its customers began or "";
--      pools × (name), × (old row), × (new row), × (deltas)
-- Returns applied | conflict (fresh entry) | known (value)
-- Event policy: p rows, s the entry, b the entry before, h key
--%include shard
--%include rows

local stop = open_shard({'hash', 'hash', 'hash', 'zset', 'stream', 'hash', 'hash', 'hash'})
if stop then return stop end
local pools, sku, old, new = tonumber(ARGV[11]), ARGV[12], ARGV[13], ARGV[14]
local key, value, counting = ARGV[15], ARGV[16], ARGV[17]
local known = key ~= '' and known_key(KEYS[6], KEYS[7], key)
if known then return reply('known', known) end
local entry = call('HGET', KEYS[3], sku) or ''
if entry == new then return reply('applied') end   -- sent again after a broken connection
local outcome, set = meet_plan(KEYS[2], HEAD + 8, pools)
if entry ~= old or outcome ~= 'applied' then return reply('conflict', entry) end

local event = {'p', table.concat(set, '\n'), 's', sku .. '\n' .. new, 'b', old}
note_keys(event, key ~= '' and {key, value} or {}, {})
append_event(KEYS[5], 'policy', unpack(event))
call_many('HSET', KEYS[2], set)
call('HSET', KEYS[3], sku, new)
call('ZADD', KEYS[4], 0, sku)
if counting ~= '' then call('HSET', KEYS[8], sku, counting) else call('HDEL', KEYS[8], sku) end
if key ~= '' then call('HSET', KEYS[6], key, value) end
return reply('applied')

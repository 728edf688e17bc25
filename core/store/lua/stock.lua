#!lua
-- stock: units arrive, leave, are counted or moved, as planned; all lines of the batch or nothing.
--
-- Guarantees: as reserve for rows; a pool that is new is entered with its SKU, whose entry is still
-- the one that was planned on; a key that was used before is never used again.
-- KEYS 1 meta 2 pools 3 skus 4 events 5 w 6 w before
-- ARGV head, then pools, skus, keys, moves; pools × (name), × (old row), × (new row), × (deltas);
--      skus × (sku, old entry, new entry); keys × (field, value); moves as one text
-- Returns applied | rebased | conflict (index, fresh row …; index, fresh entry …)
--      | known (index of key, value …)
-- Event stock: p rows, m moves (verb pool from to units reference reason occurred), s entries of
--      skus, w keys
--%include shard
--%include rows

local stop = open_shard({'hash', 'hash', 'hash', 'stream', 'hash', 'hash'})
if stop then return stop end
local pools, skus, keys = tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13])
local at_pools = HEAD + 5
local at_skus = at_pools + 4 * pools
local at_keys = at_skus + 3 * skus
local known = {}
for i = 0, keys - 1 do
  local value = known_key(KEYS[5], KEYS[6], ARGV[at_keys + 2 * i])
  if value then known[#known + 1], known[#known + 2] = i, value end
end
if #known > 0 then return reply('known', known) end
local outcome, set, changed = meet_plan(KEYS[2], at_pools, pools)
local entries, fresh = {}, {}
for i = 0, skus - 1 do
  local at = at_skus + 3 * i
  local entry = call('HGET', KEYS[3], ARGV[at]) or ''
  if entry ~= ARGV[at + 1] then
    outcome = 'conflict'
    fresh[#fresh + 1], fresh[#fresh + 2] = i, entry
  end
  entries[#entries + 1], entries[#entries + 2] = ARGV[at], ARGV[at + 2]
end
if outcome == 'conflict' then return reply(outcome, changed, fresh) end

local event = {'p', table.concat(set, '\n'), 'm', ARGV[14], 's', table.concat(entries, '\n')}
note_keys(event, {}, {unpack(ARGV, at_keys, at_keys + 2 * keys - 1)})
append_event(KEYS[4], 'stock', unpack(event))
call_many('HSET', KEYS[2], set)
call_many('HSET', KEYS[3], entries)
call('HSET', KEYS[5], unpack(ARGV, at_keys, at_keys + 2 * keys - 1))
return reply(outcome, changed)

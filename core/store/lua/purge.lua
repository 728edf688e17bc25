#!lua flags=allow-oom
-- purge: removes records that were released or expired long ago; others are kept for the ledger.
--
-- Guarantees: a record that is alive, committed, shipped, or changed since `before` stays.
-- KEYS 1 meta 2 the hour's list of ended ids 3 ids whose records stay 4… buckets
-- ARGV head, then before in ms, hour, ids; per id: index of its bucket in KEYS, id
-- Returns applied, ids left in the list
-- Event: none
--%include shard

local stop = open_shard({'hash', 'list', 'list', 'hash'})
if stop then return stop end
local before, hour, count = tonumber(ARGV[11]), ARGV[12], tonumber(ARGV[13])
local head, mine, kept = {}, true, {}
if count > 0 then head = call('LRANGE', KEYS[2], 0, count - 1) end
for i = 1, count do mine = mine and head[i] == ARGV[HEAD + 3 + 2 * i] end
if not mine then return reply('applied', call('LLEN', KEYS[2])) end
for i = 1, count do
  local bucket, id = KEYS[tonumber(ARGV[HEAD + 2 + 2 * i])], ARGV[HEAD + 3 + 2 * i]
  local text = call('HGET', bucket, id)
  if text then
    local state, updated = string.match(text, '^(%u) %d+ (%S+) ')
    if (state == 'L' or state == 'X') and tonumber(updated) < before then
      call('HDEL', bucket, id)
    elseif state ~= 'R' and state ~= 'C' then
      kept[#kept + 1] = id
    end
  end
end
if count > 0 then call('LTRIM', KEYS[2], count, -1) end
if #kept > 0 then call('RPUSH', KEYS[3], unpack(kept)) end
local left = call('LLEN', KEYS[2])
if left == 0 then call('HSET', KEYS[1], 'purged', hour) end
return reply('applied', left)

#!lua flags=allow-oom
-- purge: removes records that ended long ago and are in the ledger.
--
-- Guarantees: a record that is alive or committed stays, and so does one that changed since
-- `before`, or that the ledger may not have.
-- KEYS 1 meta 2 the hour's list of ended ids 3… buckets
-- ARGV head, then before in ms, hour, ids; per id: index of its bucket in KEYS, id
-- Returns applied, ids left in the list
-- Event: none
--%include shard

local stop = open_shard({'hash', 'list', 'hash'})
if stop then return stop end
local before, hour, count = tonumber(ARGV[11]), ARGV[12], tonumber(ARGV[13])
local ledger_ms = tonumber(call('HGET', KEYS[1], 'mark_ms') or '0')
local head, mine, ended = {}, ledger_ms >= before, {}
if count > 0 then head = call('LRANGE', KEYS[2], 0, count - 1) end
for i = 1, count do
  local bucket, id = KEYS[tonumber(ARGV[HEAD + 2 + 2 * i])], ARGV[HEAD + 3 + 2 * i]
  local text = call('HGET', bucket, id)
  mine = mine and head[i] == id
  if text then
    local state, updated, seq = string.match(text, '^(%u) %d+ (%S+) %S+ %S+ (%S+) ')
    if state ~= 'R' and state ~= 'C' and (tonumber(updated) or 0) < before then
      ended[#ended + 1] = {bucket, id}
      mine = mine and (tonumber(seq) or 0) <= tonumber(meta[10] or '0')
    end
  end
end
if not mine then return reply('applied', call('LLEN', KEYS[2])) end
for _, entry in ipairs(ended) do call('HDEL', entry[1], entry[2]) end
if count > 0 then call('LTRIM', KEYS[2], count, -1) end
local left = call('LLEN', KEYS[2])
if left == 0 then call('HSET', KEYS[1], 'purged', hour) end
return reply('applied', left)

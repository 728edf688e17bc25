#!lua flags=allow-oom
-- mark: the ledger has all events up to here; they may leave the stream.
--
-- Guarantees: only in the epoch that the ledger is in, and never back.
-- KEYS 1 meta 2 events
-- ARGV epoch, seq, time of that event in ms, why it goes no further for now or ""
-- Returns 1, or 0 if the shard has another epoch
-- Event: none

local kinds = {'hash', 'stream'}
for i = 1, #KEYS do
  local found = redis.call('TYPE', KEYS[i]).ok
  if found ~= kinds[i] and found ~= 'none' then
    return redis.error_reply('WRONGTYPE ' .. KEYS[i] .. ' is a ' .. found .. ', not a ' .. kinds[i])
  end
end
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'mark')
if meta[1] ~= ARGV[1] then return 0 end
local forward = tonumber(ARGV[2]) >= tonumber(meta[2] or '0')

redis.call('HSET', KEYS[1], 'ledger', ARGV[4])
if forward then
  redis.call('HSET', KEYS[1], 'mark', ARGV[2], 'mark_ms', ARGV[3])
  local next = string.format('%d', tonumber(ARGV[2]) + 1)
  redis.call('XTRIM', KEYS[2], 'MINID', '~', ARGV[1] .. '-' .. next)
end
return 1

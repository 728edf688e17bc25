#!lua flags=allow-oom
-- start: makes the shard if the store is empty, and tells what it is.
--
-- Guarantees: a shard that exists is left as it is. A new one has a new epoch, seq 0, one location.
-- KEYS 1 meta 2 locations
-- ARGV 1 the format that the worker knows 2 the entry of location main
-- Returns format, epoch, seq, policy, cursor, purged, time in ms
-- Event: none; the stream starts with what happens first

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
for i = 1, #KEYS do
  local found = redis.call('TYPE', KEYS[i]).ok
  if found ~= 'hash' and found ~= 'none' then
    return redis.error_reply('WRONGTYPE ' .. KEYS[i] .. ' is a ' .. found .. ', not a hash')
  end
end
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('HSET', KEYS[2], 'main', ARGV[2])
  redis.call('HSET', KEYS[1], 'format', ARGV[1], 'epoch', string.format('%d', now), 'seq', '0',
    'policy', '1', 'cursor', string.format('%d', math.floor(now / 1000)),
    'purged', string.format('%d', math.floor(now / 3600000) - 1))
end
local meta = redis.call('HMGET', KEYS[1], 'format', 'epoch', 'seq', 'policy', 'cursor', 'purged')
for i = 1, 6 do meta[i] = meta[i] or '' end
meta[7] = now
return meta

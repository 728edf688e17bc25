#!lua flags=allow-oom
-- start: makes the shard if the store is empty and that is wanted, and tells what it is.
--
-- Guarantees: a shard that exists is left as it is. A new one has a new epoch, seq 0, one location.
-- KEYS 1 meta 2 locations
-- ARGV 1 the format that the worker knows 2 the entry of location main 3 "1" = make it
-- Returns format, epoch, seq, policy, cursor, purged, how far a rebuild is, the run of the server
--      that was held against the ledger, time in ms; all but the last are "" for what is not there
-- Event: none; the stream starts with what happens first

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
for i = 1, #KEYS do
  local found = redis.call('TYPE', KEYS[i]).ok
  if found ~= 'hash' and found ~= 'none' then
    return redis.error_reply('WRONGTYPE ' .. KEYS[i] .. ' is a ' .. found .. ', not a hash')
  end
end
if ARGV[3] == '1' and redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('HSET', KEYS[2], 'main', ARGV[2])
  redis.call('HSET', KEYS[1], 'format', ARGV[1], 'epoch', string.format('%d', now), 'seq', '0',
    'policy', '1', 'cursor', string.format('%d', math.floor(now / 1000)),
    'purged', string.format('%d', math.floor(now / 3600000) - 1))
end
local meta = redis.call('HMGET', KEYS[1], 'format', 'epoch', 'seq', 'policy', 'cursor', 'purged',
  'rebuilding', 'checked')
for i = 1, 8 do meta[i] = meta[i] or '' end
meta[9] = now
return meta

#!lua flags=allow-oom
-- rebuild_end: the shard is whole again, and anybody's who takes its new epoch.
--
-- Guarantees: only by the rebuild in whose hands it is; meta is complete in the same step.
-- KEYS 1 meta
-- ARGV 1 token 2 policy 3 cursor 4, 5 key window of 1 h and the one before 6, 7 the same of 7 days
--      8 run of the server
-- Returns 1, or 0 if the shard is in other hands
-- Event: none

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local meta = redis.call('HMGET', KEYS[1], 'token', 'format', 'epoch', 'seq', 'clock')
if meta[1] ~= ARGV[1] then return 0 end

redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'format', meta[2], 'epoch', meta[3], 'seq', meta[4],
  'policy', ARGV[2], 'cursor', ARGV[3],
  'purged', string.format('%d', math.floor(now / 3600000) - 1),
  'h', ARGV[4], 'hp', ARGV[5], 'w', ARGV[6], 'wp', ARGV[7], 'mark', '0',
  'mark_ms', string.format('%d', now), 'clock', meta[5] or '0', 'checked', ARGV[8], 'rebuilt', '1')
return 1

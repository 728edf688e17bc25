#!lua flags=allow-oom
-- rebuild_put: one part of a rebuild: keys of before that go, or values from the ledger that come.
--
-- Guarantees: only while the shard is in this rebuild's hands; a sign of life.
-- KEYS 1 meta 2 events 3… what goes or comes
-- ARGV 1 token 2 how far it is, in words 3 records of reservations whose deadline is another now,
--      as the event has them, or ""; then per key from the third: hash, list, zset or gone; how
--      many values; the values
-- Returns 1, or 0 if the shard is in other hands; time in ms
-- Event extend: r records, for deadlines that were moved

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local meta = redis.call('HMGET', KEYS[1], 'token', 'epoch', 'seq')
if meta[1] ~= ARGV[1] then return {0, now} end

redis.call('HSET', KEYS[1], 'rebuilding', ARGV[2], 'alive', string.format('%d', now))
if ARGV[3] ~= '' then
  local seq = string.format('%d', tonumber(meta[3]) + 1)
  redis.call('XADD', KEYS[2], meta[2] .. '-' .. seq, 'v', 'extend', 't', string.format('%d', now),
    'p', '', 'r', ARGV[3], 'm', '')
  redis.call('HSET', KEYS[1], 'seq', seq)
end
local at = 4
for i = 3, #KEYS do
  local kind, last = ARGV[at], at + 1 + tonumber(ARGV[at + 1])
  if kind == 'gone' then
    redis.call('UNLINK', KEYS[i])
  elseif kind == 'hash' then
    redis.call('HSET', KEYS[i], unpack(ARGV, at + 2, last))
  elseif kind == 'list' then
    redis.call('RPUSH', KEYS[i], unpack(ARGV, at + 2, last))
  else
    redis.call('ZADD', KEYS[i], unpack(ARGV, at + 2, last))
  end
  at = last + 1
end
return {1, now}

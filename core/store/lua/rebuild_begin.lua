#!lua flags=allow-oom
-- rebuild_begin: the shard is going to be made again from the ledger, or must be.
--
-- Guarantees: an epoch above all before, so every script of a worker is answered `epoch` from now
-- on; one rebuild at a time: one that gave a sign of life lately keeps the shard. Nothing else is
-- touched: what the stream still has can be read.
-- KEYS 1 meta
-- ARGV 1 format 2 the ledger's epoch; of a worker that only says that a rebuild must be, the epoch
--      that it knows 3 token of this rebuild, or "" of such a worker 4 silence after which one is
--      dead, in ms 5 how far it is, in words
-- Returns begun, the epoch, time in ms, the epoch and seq that the shard had ("" = not known; a
--      worker says that it must be because there was more than that)
--      | busy, how far the other one is
-- Event: none

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
for i = 1, #KEYS do
  local found = redis.call('TYPE', KEYS[i]).ok
  if found ~= 'hash' and found ~= 'none' then
    return redis.error_reply('WRONGTYPE ' .. KEYS[i] .. ' is a ' .. found .. ', not a hash')
  end
end
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'seq', 'rebuilding', 'alive', 'was', 'was_seq')
if (meta[3] and now - tonumber(meta[4]) < tonumber(ARGV[4]))
    or (ARGV[3] == '' and meta[1] ~= ARGV[2]) then
  return {'busy', meta[3] or ''}
end

local was, was_seq = meta[1] or '', meta[2] or ''
if meta[3] then was, was_seq = meta[5], meta[6] end   -- another rebuild was here and died
if ARGV[3] == '' then was_seq = '' end
local alive = ARGV[3] == '' and '0' or string.format('%d', now)
local epoch = math.max(now, tonumber(ARGV[2]) + 1, tonumber(meta[1] or '0') + 1)
redis.call('HSET', KEYS[1], 'format', ARGV[1], 'epoch', string.format('%d', epoch), 'seq', '0',
  'mark', '0', 'rebuilding', ARGV[5], 'token', ARGV[3], 'alive', alive,
  'was', was, 'was_seq', was_seq)
return {'begun', string.format('%d', epoch), now, was, was_seq}

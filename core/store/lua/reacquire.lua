#!lua flags=allow-oom
-- reacquire: commits reservations after their deadline or release, with units taken anew.
--
-- Guarantees: as reserve; each record is still the one that was planned on; all of it or nothing.
-- A new record carries a nonce, so one that is there already was written by an earlier sending of
-- this very batch, and then all of them were.
-- KEYS 1 meta 2 pools 3 events 4 h 5 h before 6… buckets
-- ARGV head, then pools, records; pools × (name), × (old row), × (new row), × (deltas);
--      records × (index of its bucket in KEYS, id, old record, new record, key or "", fingerprint)
-- Returns applied | rebased | conflict as reserve, stale (0-based index, record or "" …),
--      known (index, value …)
-- Event commit: p rows, r records
--%include shard
--%include rows

local pools, records = tonumber(ARGV[11]), tonumber(ARGV[12])
local at_records = HEAD + 3 + 4 * pools
local stop = open_shard({'hash', 'hash', 'stream', 'hash'}, function()
  for i = 0, records - 1 do
    local at = at_records + 6 * i
    if call('HGET', KEYS[tonumber(ARGV[at])], ARGV[at + 1]) == ARGV[at + 3] then
      return reply('known', 'batch',
        call('HMGET', KEYS[2], unpack(ARGV, HEAD + 3, HEAD + 2 + pools)))
    end
  end
end)
if stop then return stop end
local known, stale, lines, keys, seen = {}, {}, {}, {}, {}
for i = 0, records - 1 do
  local at = at_records + 6 * i
  local bucket, id, old, new = KEYS[tonumber(ARGV[at])], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local key = ARGV[at + 4]
  local value = key ~= '' and known_key(KEYS[4], KEYS[5], key)
  local text = call('HGET', bucket, id)
  if value then
    known[#known + 1], known[#known + 2] = i, value
  elseif text ~= old or seen[id] then   -- a record at most once in a script
    stale[#stale + 1], stale[#stale + 2] = i, text or ''
  end
  seen[id] = true
  lines[#lines + 1], lines[#lines + 2] = id, new
  if key ~= '' then keys[#keys + 1], keys[#keys + 2] = key, ARGV[at + 5] .. ' 200 ' .. id end
end
if #known > 0 then return reply('known', 'keys', known) end
if #stale > 0 then return reply('stale', stale) end
local outcome, set, changed = meet_plan(KEYS[2], HEAD + 3, pools)
if outcome == 'conflict' then return reply(outcome, changed) end

append_event(KEYS[3], 'commit', 'p', table.concat(set, '\n'), 'r', table.concat(lines, '\n'),
  'late', '1')
call('HSET', KEYS[2], unpack(set))
for i = 0, records - 1 do
  local at = at_records + 6 * i
  call('HSET', KEYS[tonumber(ARGV[at])], ARGV[at + 1], ARGV[at + 3])
end
if #keys > 0 then call('HSET', KEYS[4], unpack(keys)) end
return reply(outcome, changed)

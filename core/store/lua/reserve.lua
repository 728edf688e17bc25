#!lua
-- reserve: takes units for a batch of new reservations, all of it or nothing.
--
-- Guarantees: no account below zero and units conserved in every row; each row is the one that was
-- planned on (swap) or the plan's deltas fit the fresh one (rebase); a batch whose first id exists
-- was done before and is not done again; every deadline lies ahead of the server's time.
-- KEYS 1 meta 2 pools 3 events 4 h 5 h before 6 w 7 w before 8 bucket of the new records 9 done
--      10… due lists
-- ARGV head, then pools, records, keys, due lists, earliest deadline in ms or "", moves of facts as
--      one text, ids that are at their end already;
--      pools × (name), × (old row), × (new row), × (deltas); records × (id, record);
--      keys × (field), × (value); per due list: its count, then its entries: ids with a blank
--      between them; the ended ids
-- Returns applied | rebased (index, row …) | conflict (index, fresh row …)
--      | known ('batch', rows as they are) | known ('keys', index, value …) and the head's outcomes
-- Event reserve: p rows, r records, m moves of those records that it names; those of the others
--      follow from them; h, w keys
--%include shard
--%include rows

local pools, records, keys = tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13])
local dues, earliest = tonumber(ARGV[14]), tonumber(ARGV[15])
local moves, ended = ARGV[16], tonumber(ARGV[17])
local at_pools = HEAD + 8
local at_records = at_pools + 4 * pools
local at_keys = at_records + 2 * records
local at_dues = at_keys + 2 * keys

local stop = open_shard({
  'hash', 'hash', 'stream', 'hash', 'hash', 'hash', 'hash', 'hash', 'list'}, function()
  if call('HEXISTS', KEYS[8], ARGV[at_records]) == 1 then
    return reply('known', 'batch',
      call('HMGET', KEYS[2], unpack(ARGV, at_pools, at_pools + pools - 1)))
  end
end)
if stop then return stop end
if earliest and earliest <= now then return reply('clock', ARGV[4], ARGV[5], ARGV[7], ARGV[8]) end
if keys > 0 then
  local current = call('HMGET', KEYS[4], unpack(ARGV, at_keys, at_keys + keys - 1))
  local before = call('HMGET', KEYS[5], unpack(ARGV, at_keys, at_keys + keys - 1))
  local known = {}
  for i = 1, keys do
    local field = ARGV[at_keys + i - 1]
    local value = current[i] or before[i]
    if of_batch(field) then value = known_key(KEYS[6], KEYS[7], field) end
    if value then known[#known + 1], known[#known + 2] = i - 1, value end
  end
  if #known > 0 then return reply('known', 'keys', known) end
end
local outcome, set, changed = meet_plan(KEYS[2], at_pools, pools)
if outcome == 'conflict' then return reply(outcome, changed) end

local short, long = {}, {}
for i = at_keys, at_keys + keys - 1 do
  local into = of_batch(ARGV[i]) and long or short
  into[#into + 1], into[#into + 2] = ARGV[i], ARGV[i + keys]
end
local event = {'p', table.concat(set, '\n'),
  'r', table.concat(ARGV, '\n', at_records, at_records + 2 * records - 1)}
note_keys(event, short, long)
if moves ~= '' then event[#event + 1], event[#event + 2] = 'm', moves end
append_event(KEYS[3], 'reserve', unpack(event))
call('HSET', KEYS[2], unpack(set))
call('HSET', KEYS[8], unpack(ARGV, at_records, at_records + 2 * records - 1))
local at = at_dues
for i = 1, dues do
  local count = tonumber(ARGV[at])
  call('RPUSH', KEYS[9 + i], unpack(ARGV, at + 1, at + count))
  at = at + count + 1
end
if ended > 0 then call('RPUSH', KEYS[9], unpack(ARGV, at, at + ended - 1)) end
call_many('HSET', KEYS[4], short)
call_many('HSET', KEYS[6], long)
local second = earliest and math.floor(earliest / 1000)
if second and second < tonumber(meta[9]) then
  call('HSET', KEYS[1], 'cursor', format('%d', second))
end
return reply(outcome, changed)

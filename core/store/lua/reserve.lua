#!lua
-- reserve: takes units for a batch of new reservations, all of it or nothing.
--
-- Guarantees: no account below zero and units conserved in every row; each row is the one that was
-- planned on (swap) or the plan's deltas fit the fresh one (rebase); a batch whose first id exists
-- was done before and is not done again; every deadline lies ahead of the server's time; no
-- customer passes the limit of a SKU, or has more live reservations than one may.
-- KEYS 1 meta 2 pools 3 events 4 h 5 h before 6 w 7 w before 8 bucket of the new records 9 done
--      10… due lists, then days of customers from tomorrow back if there are entries of them, and
--      last the live reservations of customers if their number is bounded
-- ARGV head, then pools, records, keys of the short window and of the long one, due lists, earliest
--      deadline in ms or "", moves of facts as one text, ids that are at their end already,
--      entries of customers, and behind a blank how many live reservations one may have if that is
--      bounded; the records as the event has them, the keys likewise: of the short window, of the
--      long one;
--      pools × (name), × (old row), × (new row), × (deltas); records × (id, record);
--      short keys × (field), long keys × (field); per due list: its count, then its entries: ids
--      with a blank between them; the ended ids; entries: see parts/customers.lua
-- Returns applied | rebased (index, row …) | conflict (index, fresh row …)
--      | limit (index of an entry, units that the customer has …; index of a record, live
--      reservations that the customer has …)
--      | known ('batch', rows as they are) | known ('keys', index, value …) and the head's outcomes
-- Event reserve: p rows, r records, m moves of those records that it names; those of the others
--      follow from them; h, w keys
--%include shard
--%include rows
--%include customers
--%include living

local pools, records, short, long = tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13]),
  tonumber(ARGV[14])
local dues, earliest = tonumber(ARGV[15]), tonumber(ARGV[16])
local moves, ended = ARGV[17], tonumber(ARGV[18])
local entries, most = string.match(ARGV[19], '^(%d+) ?(%d*)$')
entries, most = tonumber(entries), tonumber(most)
local at_pools = HEAD + 13
local at_records = at_pools + 4 * pools
local at_keys = at_records + 2 * records
local at_long = at_keys + short
local at_dues = at_long + long

local kinds = {'hash', 'hash', 'stream', 'hash', 'hash', 'hash', 'hash', 'hash', 'list'}
if entries > 0 or most then
  for i = 10, #KEYS do kinds[i] = i <= 9 + dues and 'list' or 'hash' end
end
if most then kinds[#KEYS] = 'zset' end
local stop = open_shard(kinds, function()
  if call('HEXISTS', KEYS[8], ARGV[at_records]) == 1 then
    return reply('known', 'batch',
      call('HMGET', KEYS[2], unpack(ARGV, at_pools, at_pools + pools - 1)))
  end
end)
if stop then return stop end
if earliest and earliest <= now then return reply('clock', ARGV[4], ARGV[5], ARGV[7], ARGV[8]) end
local values, known = {}, {}
known_keys(values, KEYS[4], at_keys, short)
if KEYS[5] ~= KEYS[4] then known_keys(values, KEYS[5], at_keys, short) end
known_keys(values, KEYS[6], at_long, long)
if KEYS[7] ~= KEYS[6] then known_keys(values, KEYS[7], at_long, long) end
for at, value in pairs(values) do
  known[#known + 1], known[#known + 2] = at - at_keys, value
end
if #known > 0 then return reply('known', 'keys', known) end
-- Keeps `count` keys: one with what it stands for, more of them with the entry that they share.
local function keep_keys(window, first, count, text)
  if count == 1 then
    call('HSET', window, ARGV[first], string.match(text, ' (.*)'))
  elseif count > 0 then
    local name = '=' .. meta[2] .. '-' .. seq
    local entries, last = {name, text}, 2
    for i = first, first + count - 1 do
      entries[last + 1], entries[last + 2] = ARGV[i], name
      last = last + 2
    end
    call_many('HSET', window, entries)
  end
end

local outcome, set, changed = meet_plan(KEYS[2], at_pools, pools)
if outcome == 'conflict' then return reply(outcome, changed) end
local at_entries = #ARGV - ENTRY * entries + 1
local over, crowd, live = over_limit(at_entries, entries, 10 + dues), {}, {}
if most then crowd, live = meet_live(KEYS[#KEYS], at_records, records, most) end
if #over + #crowd > 0 then return reply('limit', over, crowd) end

local event = {'p', table.concat(set, '\n'), 'r', ARGV[20]}
if short > 0 then event[#event + 1], event[#event + 2] = 'h', ARGV[21] end
if long > 0 then event[#event + 1], event[#event + 2] = 'w', ARGV[22] end
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
keep_keys(KEYS[4], at_keys, short, ARGV[21])
keep_keys(KEYS[6], at_long, long, ARGV[22])
book_all(at_entries, entries)
call_many('ZADD', KEYS[#KEYS], live)
local second = earliest and math.floor(earliest / 1000)
if second and second < tonumber(meta[9]) then
  call('HSET', KEYS[1], 'cursor', format('%d', second))
end
return reply(outcome, changed)

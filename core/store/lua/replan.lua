#!lua flags=allow-oom
-- replan: what reservations hold is planned anew: an amend, a late commit, a return.
--
-- Guarantees: as reserve for rows; each record is still the one that was planned on, and one that
-- is reserved is not due; a new deadline lies ahead of the server's time and its id in the list of
-- its second; all of it or nothing. A new record carries a nonce, so one that is there already was
-- written by an earlier sending of this very batch, and then all of them were. The key of a late
-- commit says so behind its mark: a replay is answered so, for its units were taken anew.
-- KEYS 1 meta 2 pools 3 events 4 h 5 h before 6 w 7 w before 8 done 9… due lists, then days of
--      customers from tomorrow back if there are entries of them, and buckets
-- ARGV head, then pools, records, due lists, earliest new deadline in ms or "", verb, "1" if late
--      or "", moves as one text, entries of customers;
--      pools × (name), × (old row), × (new row), × (deltas);
--      records × (index of its bucket in KEYS, id, old record, new record, key or "", fingerprint,
--      mark);
--      per due list: its count, then its entries: an id each; entries: see parts/customers.lua
-- Returns applied | rebased | conflict | limit as reserve, stale (0-based index, record or "" …),
--      known ('batch', rows as they are) | known ('keys', index, value …)
-- Event amend | commit | return: p rows, r records, m moves; late: 1 for a late commit, whose moves
--      follow from its records
--%include shard
--%include rows
--%include customers

local pools, records, dues = tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13])
local earliest, verb, late = tonumber(ARGV[14]), ARGV[15], ARGV[16]
local entries = tonumber(ARGV[18])
local at_pools = HEAD + 9
local at_records = at_pools + 4 * pools
local kinds = {'hash', 'hash', 'stream', 'hash', 'hash', 'hash', 'hash', 'list'}
for i = 9, #KEYS do kinds[i] = i <= 8 + dues and 'list' or 'hash' end
local stop = open_shard(kinds, function()
  for i = 0, records - 1 do
    local at = at_records + 7 * i
    if call('HGET', KEYS[tonumber(ARGV[at])], ARGV[at + 1]) == ARGV[at + 3] then
      return reply('known', 'batch',
        call('HMGET', KEYS[2], unpack(ARGV, at_pools, at_pools + pools - 1)))
    end
  end
end)
if stop then return stop end
if earliest and earliest <= now then
  return reply('clock', ARGV[4], ARGV[5], ARGV[7], ARGV[8])
end
local known, stale, lines, seen, ended = {}, {}, {}, {}, {}
local keys = {h = {}, w = {}}
for i = 0, records - 1 do
  local at = at_records + 7 * i
  local bucket, id, old, new = KEYS[tonumber(ARGV[at])], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local key = ARGV[at + 4]
  local long = verb == 'return' or of_batch(key)
  local value = key ~= '' and known_key(KEYS[long and 6 or 4], KEYS[long and 7 or 5], key)
  local text = call('HGET', bucket, id)
  local deadline = ARGV[10] == '1' and string.match(old, '^R %d+ %S+ (%d+) ')
  if value then
    known[#known + 1], known[#known + 2] = i, value
  elseif text ~= old or seen[id] or seen[key] or (deadline and now >= tonumber(deadline)) then
    stale[#stale + 1], stale[#stale + 2] = i, text or ''   -- a record or key once in a script
  end
  seen[id] = true
  lines[#lines + 1], lines[#lines + 2] = id, new
  if key ~= '' then
    local into = keys[long and 'w' or 'h']
    into[#into + 1] = key
    into[#into + 1] = format('%s 200 %s %s', ARGV[at + 5], id, ARGV[at + 6])
      .. (late ~= '' and ' anew' or '')
    seen[key] = true
  end
  if not string.match(new, '^[RC] ') then ended[#ended + 1] = id end
end
if #known > 0 then return reply('known', 'keys', known) end
if #stale > 0 then return reply('stale', stale) end
local outcome, set, changed = meet_plan(KEYS[2], at_pools, pools)
if outcome == 'conflict' then return reply(outcome, changed) end
local at_entries = #ARGV - ENTRY * entries + 1
local over = over_limit(at_entries, entries, 9 + dues)
if #over > 0 then return reply('limit', over) end

local event = {'p', table.concat(set, '\n'), 'r', table.concat(lines, '\n'), 'm', ARGV[17]}
if late ~= '' then event[7], event[8] = 'late', late end
note_keys(event, keys.h, keys.w)
append_event(KEYS[3], verb, unpack(event))
call('HSET', KEYS[2], unpack(set))
for i = 0, records - 1 do
  local at = at_records + 7 * i
  call('HSET', KEYS[tonumber(ARGV[at])], ARGV[at + 1], ARGV[at + 3])
end
local at = at_records + 7 * records
for i = 1, dues do
  local count = tonumber(ARGV[at])
  call('RPUSH', KEYS[8 + i], unpack(ARGV, at + 1, at + count))
  at = at + count + 1
end
call_many('HSET', KEYS[4], keys.h)
call_many('HSET', KEYS[6], keys.w)
call_many('RPUSH', KEYS[8], ended)
book_all(at_entries, entries)
local second = earliest and math.floor(earliest / 1000)
if second and second < tonumber(meta[9]) then
  call('HSET', KEYS[1], 'cursor', format('%d', second))
end
return reply(outcome, changed)

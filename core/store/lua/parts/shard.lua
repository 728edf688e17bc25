-- Part of every script: the shard's meta, the server's time, and the outcomes that come first.
--
-- ARGV 1 epoch · 2 the worker's estimate of the server's time in ms ("" = does not matter)
--      3 number of the channels' policy ("" = does not matter)
--      4, 5 key window of 1 h: start in ms of the current one and of the one before · 6 its length
--      7, 8, 9 the same for the window of 7 days · 10 "1" = deadlines may be judged, "0" = not;
--      behind a blank who asks, for the event: "actor request"
-- A reply is {outcome, seq, time in ms, mark, cursor, …}; what follows depends on the outcome.

local FORMAT = '2'
local call = redis.call
local format = string.format
local meta, now, seq, who
local absent = {}   -- name of a key → true if it was not there when the script began
local HEAD = 10

local function reply(outcome, ...)
  return {outcome, seq or meta[3] or '0', now, meta[10] or '', meta[9] or '0', ...}
end

-- One command with many values, in portions that unpack can take (it fails at 8,000).
local function call_many(command, key, values)
  for first = 1, #values, 4000 do
    call(command, key, unpack(values, first, math.min(first + 3999, #values)))
  end
end

-- The window that holds at `now`, and the one before it; never one that is older than meta's.
local function window(current, previous, length)
  local own = format('%d', now - now % tonumber(length))
  if not current then return own, own end
  if tonumber(own) > tonumber(current) then return own, current end
  return current, previous
end

-- All guards that every script shares. Returns a reply if the script must stop, else nil.
-- `kinds` names the type of each key; the last one stands for all that follow. `done_before`, if
-- given, returns the reply for a batch that was done by an earlier sending: it is done, whatever
-- the clock and the policy have become since.
local function open_shard(kinds, done_before)
  ARGV[10], who = string.match(ARGV[10], '^(%S*) ?(.*)$')
  for i = 1, #KEYS do
    local kind = kinds[i] or kinds[#kinds]
    local found = call('TYPE', KEYS[i]).ok
    if found == 'none' then
      absent[KEYS[i]] = true
    elseif found ~= kind then
      return redis.error_reply('WRONGTYPE ' .. KEYS[i] .. ' is a ' .. found .. ', not a ' .. kind)
    end
  end
  meta = call('HMGET', KEYS[1],
    'format', 'epoch', 'seq', 'policy', 'h', 'hp', 'w', 'wp', 'cursor', 'mark')
  local time = call('TIME')
  now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  if meta[1] ~= FORMAT or meta[2] ~= ARGV[1] then return reply('epoch') end
  local done = done_before and done_before()
  if done then return done end
  local h, hp = window(meta[5], meta[6], ARGV[6])
  local w, wp = window(meta[7], meta[8], ARGV[9])
  if (ARGV[2] ~= '' and math.abs(now - tonumber(ARGV[2])) > 1000)
      or h ~= ARGV[4] or hp ~= ARGV[5] or w ~= ARGV[7] or wp ~= ARGV[8] then
    return reply('clock', h, hp, w, wp)
  end
  if ARGV[3] ~= '' and meta[4] ~= ARGV[3] then return reply('policy') end
end

-- Keys are about to be written to the current windows: meta must know them. A window that falls out
-- of use is noted there, so that the reaper finds and removes it.
local function keep_windows()
  if meta[6] and meta[6] ~= ARGV[4] and meta[6] ~= ARGV[5] then
    call('HSET', KEYS[1], 'old:h' .. meta[6], '1')
  end
  if meta[8] and meta[8] ~= ARGV[7] and meta[8] ~= ARGV[8] then
    call('HSET', KEYS[1], 'old:w' .. meta[8], '1')
  end
  if meta[5] ~= ARGV[4] or meta[6] ~= ARGV[5] or meta[7] ~= ARGV[7] or meta[8] ~= ARGV[8] then
    call('HSET', KEYS[1], 'h', ARGV[4], 'hp', ARGV[5], 'w', ARGV[7], 'wp', ARGV[8])
  end
end

-- Keys that a script keeps are in its event too, a line each: what was answered under a key must
-- outlive the store. `short` and `long` hold fields and values in turn.
local function note_keys(event, short, long)
  for name, kept in pairs({h = short, w = long}) do
    local lines = {}
    for i = 1, #kept, 2 do lines[#lines + 1] = kept[i] .. ' ' .. kept[i + 1] end
    if #lines > 0 then event[#event + 1], event[#event + 2] = name, table.concat(lines, '\n') end
  end
end

-- The first write of a script: its event, and with it the next seq. If this fails nothing is done.
local function append_event(stream, verb, ...)
  seq = format('%d', tonumber(meta[3]) + 1)
  local fields = {...}
  if who ~= '' then fields[#fields + 1], fields[#fields + 2] = 'a', who end
  call('XADD', stream, meta[2] .. '-' .. seq, 'v', verb, 't', format('%d', now), unpack(fields))
  call('HSET', KEYS[1], 'seq', seq)
  keep_windows()
end

-- What the value of a key says. Keys that were used in one script share an entry that has a line
-- for each, field and value, and their own values name it: "=" and the id of the script's event.
local function spelled_out(window, field, value)
  if not value or string.sub(value, 1, 1) ~= '=' then return value end
  local text, line = '\n' .. call('HGET', window, value), '\n' .. field .. ' '
  local _, last = string.find(text, line, 1, true)
  return string.match(text, '^[^\n]+', last + 1)
end

-- What an idempotency key stood for when the script began, in the current window or the one before:
-- a string or false.
local function known_key(current, previous, field)
  local value = not absent[current] and call('HGET', current, field)
  if value then return spelled_out(current, field, value) end
  value = previous ~= current and not absent[previous] and call('HGET', previous, field)
  return spelled_out(previous, field, value)
end

-- The same of many: the fields in ARGV from `first` on that one window has. Adds what they stand
-- for to `values`, by their place in ARGV.
local function known_keys(values, window, first, count)
  if count == 0 or absent[window] then return end
  local found = call('HMGET', window, unpack(ARGV, first, first + count - 1))
  for i = 1, count do
    local value, at = found[i], first + i - 1
    if value then values[at] = spelled_out(window, ARGV[at], value) end
  end
end

-- True for a key that a batch's header gave to an element: it may come again with any other verb,
-- so all verbs look it up and keep it where those that move goods have theirs.
local function of_batch(field)
  return string.sub(field, 1, 1) == '#'
end

-- Part of the scripts that settle: a reservation's record as a table, and the loop over a batch.
--
-- A record reads "state version updated deadline committed seq channel customer reference line …",
-- "-" for what is absent (seq: the event that wrote it, "-" for a new one, "~nonce" for one that
-- was planned anew); a line pool@own,borrowed with ,fulfilled,cancelled,returned,ceiling behind it
-- once one of them is not 0, and ,short behind that if units were sold that were not there. A pool
-- may stand in two lines: then they spent different ceilings. States: R reserved, C committed,
-- F fulfilled, T returned, L released, X expired, K cancelled.
--
-- ARGV after the head: count, verb of the event, then 9 per record:
--   index of its bucket in KEYS, id, verb, If-Match version or "",
--   parts ("pool-or-sku quantity …" or ""), argument of the verb, key or "", fingerprint, mark
-- KEYS 1 meta 2 pools 3 events 4 done 5 h 6 h before 7 w 8 w before 9 live reservations of
--      customers 10… buckets (due lists behind)
-- Reply: code and record per record (flat), then the rows written (name, row, …).

local KINDS = {'hash', 'hash', 'stream', 'list', 'hash', 'hash', 'hash', 'hash', 'zset', 'hash'}
local WIDTH = 9
local LINES_MAX = 4000   -- of one script; the records behind them are answered `later`
local rows, touched = {}, {}
local moves = {}

local function parse_record(text)
  local r = {lines = {}}
  local rest
  r.state, r.version, r.updated, r.deadline, r.committed, r.seq, r.channel, r.customer,
    r.reference, rest = string.match(text,
      '^(%u) (%d+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+)(.*)$')
  if not r.state then return nil end
  r.version = tonumber(r.version)
  for pool, own, borrowed, tail in string.gmatch(rest, ' ([^@ ]+@[^@ ]+)@(%d+),(%d+)(%S*)') do
    local line = {pool = pool, own = tonumber(own), borrowed = tonumber(borrowed),
      fulfilled = 0, cancelled = 0, returned = '0', ceiling = 0, short = ''}
    if tail ~= '' then
      local f, c, t, n, short = string.match(tail, '^,(%d+),(%d+),(%d+),(%d+)([%d,]*)$')
      line.fulfilled, line.cancelled, line.returned = tonumber(f), tonumber(c), t
      line.ceiling, line.short = tonumber(n), short
    end
    line.open = line.own + line.borrowed - line.fulfilled - line.cancelled
    r.lines[#r.lines + 1] = line
  end
  return r
end

local function print_record(r, number)
  local parts = {format('%s %d %d %s %s %s %s %s %s', r.state, r.version + 1, now, r.deadline,
    r.committed, number, r.channel, r.customer, r.reference)}
  for _, line in ipairs(r.lines) do
    if line.fulfilled == 0 and line.cancelled == 0 and line.ceiling == 0
        and line.returned == '0' and line.short == '' then
      parts[#parts + 1] = format('%s@%d,%d', line.pool, line.own, line.borrowed)
    else
      parts[#parts + 1] = format('%s@%d,%d,%d,%d,%s,%d%s', line.pool, line.own, line.borrowed,
        line.fulfilled, line.cancelled, line.returned, line.ceiling, line.short)
    end
  end
  return table.concat(parts, ' ')
end

-- The row of a pool, parsed once per script; nil if there is none that can be read.
local function row_of(pool)
  local row = rows[pool]
  if row == nil then
    local text = call('HGET', KEYS[2], pool)
    row = text and parse_row(text) or false
    rows[pool] = row
  end
  return row or nil
end

-- True if every line's share in `plan` (line → units) is there to be moved out of `account`. A
-- record that says otherwise is corrupt and is left alone.
local function all_there(r, account, plan)
  local sums = {}
  for line, units in pairs(plan) do
    local row = row_of(line.pool)
    if not row then return false end
    sums[line.pool] = (sums[line.pool] or 0) + units
    local quota = quota_in(row, r.channel)
    if not quota or quota[account] < sums[line.pool] then return false end
  end
  return true
end

local function touch(pool)
  local row = rows[pool]
  if not row.touched then
    row.touched = true
    touched[#touched + 1] = pool
  end
  return row
end

local function note(id, pool, from, to, units)
  if units > 0 then
    moves[#moves + 1] = format('%s %s %s %d %s', pool, from, to, units, id)
  end
end

-- Gives `units` of a line back out of `account`, the borrowed part first; a deficit is paid first.
-- How much of a line's cancelled units is borrowed follows from its counters alone, so that parts
-- in any order end in the same accounts.
local function give_back(id, r, line, units, account, from)
  local row = touch(line.pool)
  local quota, head = quota_in(row, r.channel), row.head
  local lent = math.max(0, line.borrowed - math.max(0, line.fulfilled - line.own))
  local borrowed = math.min(line.cancelled + units, lent) - math.min(line.cancelled, lent)
  local own = units - borrowed
  quota[account] = quota[account] - units
  if quota[NUMBER] == line.ceiling and quota[CEILING] and quota[CEILING] ~= '-' then
    quota[LEFT] = quota[LEFT] + units
  end
  local paid = math.min(borrowed, head[DEFICIT])
  head[DEFICIT], borrowed = head[DEFICIT] - paid, borrowed - paid
  local also = math.min(own, head[DEFICIT])
  head[DEFICIT], own = head[DEFICIT] - also, own - also
  head[1] = head[1] + borrowed
  quota[FREE] = quota[FREE] + own
  note(id, line.pool, from, 'deficit', paid + also)
  note(id, line.pool, from, 'shared', borrowed)
  note(id, line.pool, from, 'free:' .. r.channel, own)
end

-- Which lines a partial verb means: line → units, or nil and what is left ("pool left …"). A part
-- that asks for too much takes nothing from those behind it.
local function choose(r, parts)
  local chosen, short = {}, {}
  for target, quantity in string.gmatch(parts, '(%S+) (%d+)') do
    local want, left, taken = tonumber(quantity), 0, {}
    for _, line in ipairs(r.lines) do
      if line.pool == target or string.match(line.pool, '^[^@]+') == target then
        local free = line.open - (chosen[line] or 0)
        left = left + free
        local part = math.min(want, free)
        taken[line] = part
        want = want - part
      end
    end
    if want > 0 then
      short[#short + 1] = format('%s %d', target, left)
    else
      for line, part in pairs(taken) do
        if part > 0 then chosen[line] = (chosen[line] or 0) + part end
      end
    end
  end
  if #short > 0 then return nil, table.concat(short, ' ') end
  return chosen
end

-- The lines of a plan with their units, in the record's order: which of two lines of one pool pays
-- a deficit first must not be chance.
local function planned_lines(r, plan)
  local at = 0
  return function()
    while at < #r.lines do
      at = at + 1
      local line = r.lines[at]
      if plan[line] then return line, plan[line] end
    end
  end
end

local function all_open(r)
  local chosen, any = {}, false
  for _, line in ipairs(r.lines) do
    if line.open > 0 then
      chosen[line] = line.open
      any = true
    end
  end
  return any and chosen or nil
end

-- The state of a record whose units were committed once.
local function settled_state(r)
  local open, shipped, back = 0, 0, 0
  for _, line in ipairs(r.lines) do
    open, shipped, back = open + line.open, shipped + line.fulfilled, back + tonumber(line.returned)
  end
  if open > 0 then return 'C' end
  if shipped == 0 then return 'K' end
  return back == shipped and 'T' or 'F'
end

local function is_due(r)
  return r.state == 'R' and ARGV[10] == '1' and now >= tonumber(r.deadline)
end

local function stale(r, wanted)
  return wanted ~= '' and tonumber(wanted) ~= r.version
end

-- The record that a verb is about, as a table; or nil, and the code and detail that answer it. What
-- stands under the key with this request's own mark was done by an earlier sending of it.
local function meet_record(at, kept_long)
  local bucket, id = KEYS[tonumber(ARGV[at])], ARGV[at + 1]
  local key, print, mark = ARGV[at + 6], ARGV[at + 7], ARGV[at + 8]
  local long = kept_long[ARGV[at + 2]] or of_batch(key)
  local known = key ~= '' and known_key(KEYS[long and 7 or 5], KEYS[long and 8 or 6], key)
  if known and string.sub(known, 1, #print) ~= print then return nil, 'reused', '' end
  local text = call('HGET', bucket, id)
  if not text then return nil, 'gone', '' end
  if known then
    local by, anew = string.match(known, '^%S+ %S+ %S+ ?(%S*)(.*)$')
    return nil, (by == mark and 'done' or 'replay') .. anew, text
  end
  local r = parse_record(text)
  if not r then return nil, 'corrupt', text end
  r.text = text
  return r
end

-- Runs `decide(record, id, verb, parts, argument, wanted, place in the batch)` → code, detail over
-- the batch: all guards and decisions first, then all writes. A decision changes tables only. What
-- is not reserved any more leaves the live reservations of its customer, if they are counted.
local function settle(decide, kept_long)
  local count, verb, first = tonumber(ARGV[HEAD + 1]), ARGV[HEAD + 2], HEAD + 3
  local answers, texts, keys, events, ended = {}, {}, {h = {}, w = {}}, {}, {}
  local used = {}   -- keys of this script: whoever has the same one is answered by the next
  local number, lines = format('%d', tonumber(meta[3]) + 1), 0
  local counted, left = not absent[KEYS[9]], {}
  for i = 1, count do
    local at = first + (i - 1) * WIDTH
    local id, act, key = ARGV[at + 1], ARGV[at + 2], ARGV[at + 6]
    local r, code, detail = nil, 'later', ''
    if lines < LINES_MAX and not used[key] then r, code, detail = meet_record(at, kept_long) end
    if r then
      lines = lines + #r.lines
      local was = r.state
      code, detail = decide(r, id, act, ARGV[at + 4], ARGV[at + 5], ARGV[at + 3], i)
      detail = detail or r.text
      if code == 'done' then
        detail = print_record(r, number)
        texts[#texts + 1] = {KEYS[tonumber(ARGV[at])], id, detail}
        events[#events + 1], events[#events + 2] = id, detail
        if r.state ~= 'R' and r.state ~= 'C' then ended[#ended + 1] = id end
        if counted and was == 'R' and r.state ~= 'R' then
          left[#left + 1] = r.customer .. '@' .. id
        end
      end
      if key ~= '' and (code == 'done' or code == 'already') then
        local into = keys[(kept_long[act] or of_batch(key)) and 'w' or 'h']
        used[key] = true
        into[#into + 1] = key
        into[#into + 1] = format('%s 200 %s %s', ARGV[at + 7], id, ARGV[at + 8])
      end
    end
    answers[#answers + 1], answers[#answers + 2] = code, detail
  end

  local set = {}
  for _, pool in ipairs(touched) do
    local row = rows[pool]
    local on_hand, lawful = units_of(row)
    if not lawful or on_hand ~= row.on_hand then
      return redis.error_reply('LAW units of ' .. pool .. ' would not be conserved')
    end
    set[#set + 1], set[#set + 2] = pool, print_row(row)
  end
  if #events + #keys.h + #keys.w > 0 then
    local event = {'p', table.concat(set, '\n'), 'r', table.concat(events, '\n'),
      'm', table.concat(moves, '\n')}
    note_keys(event, keys.h, keys.w)
    append_event(KEYS[3], verb, unpack(event))
    call_many('HSET', KEYS[2], set)
    for _, entry in ipairs(texts) do call('HSET', entry[1], entry[2], entry[3]) end
    call_many('RPUSH', KEYS[4], ended)
    call_many('ZREM', KEYS[9], left)
  end
  call_many('HSET', KEYS[5], keys.h)
  call_many('HSET', KEYS[7], keys.w)
  return reply('applied', answers, set)
end

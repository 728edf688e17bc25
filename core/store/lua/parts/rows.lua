-- Part of the scripts that move units: a pool's row as a table, the one law, and swap or rebase.
--
-- A row reads "version sku_number policy_number head name@quota name@quota …": head is
-- shared,safety,damaged,quarantine,deficit,credit and a quota free,reserved,committed,credit with
-- ,number,ceiling,left,remainder behind it once the channel has had a ceiling.

local DEFICIT, HEAD_CREDIT = 5, 6
local FREE, RESERVED, COMMITTED, CREDIT, NUMBER, CEILING, LEFT, REMAINDER = 1, 2, 3, 4, 5, 6, 7, 8

local QUOTA = ' [^@ ]+@%d+,%d+,%d+,%-?%d+[^@ ]*'   -- one that no account is below zero in

-- A quota as a table; nil if it cannot be read.
local function parse_quota(body)
  local free, reserved, committed, credit, tail =
    string.match(body, '^(%d+),(%d+),(%d+),(-?%d+)(.*)$')
  if not free then return nil end
  local quota = {tonumber(free), tonumber(reserved), tonumber(committed), tonumber(credit)}
  if tail ~= '' then
    local number, ceiling, left, remainder = string.match(tail, '^,(%d+),([^,]+),(%d+),(%d+)$')
    if not number then return nil end
    quota[NUMBER], quota[CEILING] = tonumber(number), ceiling
    quota[LEFT], quota[REMAINDER] = tonumber(left), tonumber(remainder)
  end
  return quota
end

-- Where a channel's quota stands in a text, from the space before it on; nil if it has none.
local function place_of(text, channel, first)
  local from, at = string.find(text, ' ' .. channel .. '@', first or 1, true)
  if not from then return nil end
  local _, to = string.find(text, '^%S*', at + 1)
  return from, to, string.sub(text, at + 1, to)
end

-- A channel's quota in a row, nil if it has none that can be read. It is opened when it is asked
-- for: a row of many channels is read where units move, and the others' text stays as it is.
local function quota_in(row, channel)
  local quota = row.quotas[channel]
  if quota then return quota end
  local from, to, body = place_of(row.rest, channel)
  quota = from and not place_of(row.rest, channel, to) and parse_quota(body)
  if not quota then return nil end
  row.quotas[channel] = quota
  row.opened[#row.opened + 1] = channel
  row.on_hand = row.on_hand + quota[FREE] + quota[RESERVED] + quota[COMMITTED]
  return quota
end

-- The accounts that a delta names: those of the head for no channel, an empty quota for a channel
-- that has none; nil if what it has cannot be read.
local function accounts_of(row, channel)
  if channel == '' then return row.head end
  local quota = quota_in(row, channel)
  if not quota and not place_of(row.rest, channel) then
    quota = {0, 0, 0, 0}
    row.quotas[channel] = quota
    row.opened[#row.opened + 1] = channel
  end
  return quota
end

-- Opens all quotas; false if one cannot be read.
local function open_all(row)
  for channel in string.gmatch(row.rest, ' ([^@ ]+)@') do
    if not quota_in(row, channel) then return false end
  end
  return true
end

-- A row as a table; nil if it cannot be read. All of it is looked at, for what is not opened goes
-- into the event as it stands, and the ledger believes no row that is torn. `on_hand` is what head
-- and opened quotas held: the units on hand where all are open, as in a row with a deficit, and
-- else fewer.
local function parse_row(text)
  local version, numbers, head, rest = string.match(text, '^(%d+) (%d+ %d+) ([-%d,]+)(.*)$')
  if not version then return nil end
  local row = {version = tonumber(version), numbers = numbers, head = {}, rest = rest,
    quotas = {}, opened = {}}
  local h = row.head
  for number in string.gmatch(head, '-?%d+') do h[#h + 1] = tonumber(number) end
  if #h ~= HEAD_CREDIT or string.gsub(rest, QUOTA, '') ~= '' then return nil end
  row.on_hand = h[1] + h[2] + h[3] + h[4] - h[DEFICIT]
  if h[DEFICIT] > 0 and not open_all(row) then return nil end
  return row
end

local function print_quota(name, q)
  if q[NUMBER] then
    return format(' %s@%d,%d,%d,%d,%d,%s,%d,%d',
      name, q[1], q[2], q[3], q[4], q[5], q[6], q[7], q[8])
  elseif q[1] ~= 0 or q[2] ~= 0 or q[3] ~= 0 or q[4] ~= 0 then
    return format(' %s@%d,%d,%d,%d', name, q[1], q[2], q[3], q[4])
  end
  return ''
end

-- The row as text, one version on.
local function print_row(row)
  local h, rest = row.head, row.rest
  for _, name in ipairs(row.opened) do
    local quota, from, to = print_quota(name, row.quotas[name]), place_of(rest, name)
    if from then
      rest = string.sub(rest, 1, from - 1) .. quota .. string.sub(rest, to + 1)
    else
      rest = rest .. quota
    end
  end
  return format('%d %s %d,%d,%d,%d,%d,%d', row.version + 1, row.numbers,
    h[1], h[2], h[3], h[4], h[5], h[6]) .. rest
end

-- What head and opened quotas hold now, and false if one of their accounts is negative, or units
-- of any channel are sellable beside a deficit (law 2). What is not open did not change.
local function units_of(row)
  local h = row.head
  local total, lawful = h[1] + h[2] + h[3] + h[4], true
  local sellable = h[1] + h[2]
  for i = 1, DEFICIT do lawful = lawful and h[i] >= 0 end
  if h[DEFICIT] > 0 and not open_all(row) then lawful = false end
  for _, q in pairs(row.quotas) do
    total = total + q[FREE] + q[RESERVED] + q[COMMITTED]
    sellable = sellable + q[FREE]
    lawful = lawful and q[FREE] >= 0 and q[RESERVED] >= 0 and q[COMMITTED] >= 0
      and (q[LEFT] or 0) >= 0
  end
  if h[DEFICIT] > 0 and sellable > 0 then lawful = false end
  return total - h[DEFICIT], lawful
end

-- A plan's deltas on a row that changed since it was planned: the new text, nil if it may not be.
local function rebase(text, planned_on, deltas)
  if deltas == '' or text == '' or planned_on == '' then return nil end
  local row = parse_row(text)
  if not row or row.numbers ~= string.match(planned_on, '^%d+ (%d+ %d+) ') then return nil end
  local inflow, tokens = string.match(deltas, '^(-?%d+)(.*)$')
  for channel, account, value in string.gmatch(tokens, ' ([^@ ]*)@(%d)=(-?%d+)') do
    local accounts = accounts_of(row, channel)
    if not accounts or (accounts[tonumber(account)] or 0) ~= tonumber(value) then return nil end
  end
  for channel, account, value in string.gmatch(tokens, ' ([^@ ]*)@(%d):(-?%d+)') do
    local accounts = accounts_of(row, channel)
    account = tonumber(account)
    if not accounts or not accounts[account] then return nil end
    accounts[account] = accounts[account] + tonumber(value)
  end
  for channel, account, least in string.gmatch(tokens, ' ([^@ ]*)@(%d)>(%d+)') do
    local accounts = accounts_of(row, channel)
    if not accounts or accounts[tonumber(account)] < tonumber(least) then return nil end
  end
  local after, lawful = units_of(row)
  if not lawful or after ~= row.on_hand + tonumber(inflow) then return nil end
  return print_row(row)
end

-- Guards of a planned stage: `count` pools, then their old rows, new rows and deltas, from
-- ARGV[first] on. Returns 'applied', 'rebased' or 'conflict'; what to set (name, row, …); and the
-- rows that differ from what the plan says they become (0-based index, row, …).
local function meet_plan(pools, first, count)
  if count == 0 then return 'applied', {}, {} end
  local fresh = call('HMGET', pools, unpack(ARGV, first, first + count - 1))
  local set, moved, met, outcome = {}, {}, {}, 'applied'
  for i = 1, count do
    local at = first + i - 1
    local text, old = fresh[i] or '', ARGV[at + count]
    local new = ARGV[at + 2 * count]
    if text ~= old then
      new = rebase(text, old, ARGV[at + 3 * count])
      met[#met + 1], met[#met + 2] = i - 1, text
      moved[#moved + 1], moved[#moved + 2] = i - 1, new
      if not new then outcome = 'conflict' elseif outcome == 'applied' then outcome = 'rebased' end
    end
    set[2 * i - 1], set[2 * i] = ARGV[at], new
  end
  return outcome, set, outcome == 'conflict' and met or moved
end

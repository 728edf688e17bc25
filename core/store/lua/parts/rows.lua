-- Part of the scripts that move units: a pool's row as a table, the one law, and swap or rebase.
--
-- A row reads "version sku_number policy_number head name@quota name@quota …": head is
-- shared,safety,damaged,quarantine,deficit,credit and a quota free,reserved,committed,credit with
-- ,number,ceiling,left,remainder behind it once the channel has had a ceiling.

local DEFICIT, HEAD_CREDIT = 5, 6
local FREE, RESERVED, COMMITTED, CREDIT, NUMBER, CEILING, LEFT, REMAINDER = 1, 2, 3, 4, 5, 6, 7, 8

local function parse_row(text)
  local version, numbers, head, rest = string.match(text, '^(%d+) (%d+ %d+) ([-%d,]+)(.*)$')
  if not version then return nil end
  local row = {version = tonumber(version), numbers = numbers, head = {}, quotas = {}, order = {}}
  for number in string.gmatch(head, '-?%d+') do row.head[#row.head + 1] = tonumber(number) end
  for name, body in string.gmatch(rest, ' ([^@ ]+)@(%S+)') do
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
    row.quotas[name] = quota
    row.order[#row.order + 1] = name
  end
  return row
end

local function quota_of(row, channel)
  local quota = row.quotas[channel]
  if not quota then
    quota = {0, 0, 0, 0}
    row.quotas[channel] = quota
    row.order[#row.order + 1] = channel
  end
  return quota
end

-- The row as text, one version on.
local function print_row(row)
  local h = row.head
  local parts = {format('%d %s %d,%d,%d,%d,%d,%d', row.version + 1, row.numbers,
    h[1], h[2], h[3], h[4], h[5], h[6])}
  for _, name in ipairs(row.order) do
    local q = row.quotas[name]
    if q[NUMBER] then
      parts[#parts + 1] = format('%s@%d,%d,%d,%d,%d,%s,%d,%d',
        name, q[1], q[2], q[3], q[4], q[5], q[6], q[7], q[8])
    elseif q[1] ~= 0 or q[2] ~= 0 or q[3] ~= 0 or q[4] ~= 0 then
      parts[#parts + 1] = format('%s@%d,%d,%d,%d', name, q[1], q[2], q[3], q[4])
    end
  end
  return table.concat(parts, ' ')
end

-- on_hand, and false if an account is negative or units are sellable beside a deficit (law 2).
local function units_of(row)
  local h = row.head
  local total, lawful = h[1] + h[2] + h[3] + h[4], true
  local sellable = h[1] + h[2]
  for i = 1, DEFICIT do lawful = lawful and h[i] >= 0 end
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
  local before = units_of(row)
  local inflow, tokens = string.match(deltas, '^(-?%d+)(.*)$')
  for channel, account, value in string.gmatch(tokens, ' ([^@ ]*)@(%d)=(-?%d+)') do
    local accounts = channel == '' and row.head or quota_of(row, channel)
    if (accounts[tonumber(account)] or 0) ~= tonumber(value) then return nil end
  end
  for channel, account, value in string.gmatch(tokens, ' ([^@ ]*)@(%d):(-?%d+)') do
    local accounts = channel == '' and row.head or quota_of(row, channel)
    account = tonumber(account)
    if not accounts[account] then return nil end
    accounts[account] = accounts[account] + tonumber(value)
  end
  for channel, account, least in string.gmatch(tokens, ' ([^@ ]*)@(%d)>(%d+)') do
    local accounts = channel == '' and row.head or row.quotas[channel]
    if accounts[tonumber(account)] < tonumber(least) then return nil end
  end
  local after, lawful = units_of(row)
  if not lawful or after ~= before + tonumber(inflow) then return nil end
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

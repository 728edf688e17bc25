#!lua flags=allow-oom
-- giveback: release, expire (reserved → back) and cancel (committed → back, whole or by lines), for
-- a batch of records, each on its own.
--
-- Guarantees: never more than is open; expire never before the deadline; what a deficit lacks is
-- paid first, then borrowed → shared and own → free of its channel; the ceiling that was spent gets
-- its allowance back if it is still the same one; of a limited SKU the customer has so many less.
-- KEYS, ARGV, reply: see parts/records.lua. Verbs: release, expire, cancel. Argument: the reason.
--      Behind the records: index in KEYS of the limits (sku → number with which counting began);
--      per record the index in KEYS of its day of customers, and that day
-- Codes: done, already, early (expire before the deadline), quantity (detail: pool left …), state,
--      due (release or cancel after the deadline), version, gone, replay, reused, corrupt
-- Event giveback: p rows, r records, m moves
--%include shard
--%include rows
--%include records
--%include customers

local stop = open_shard(KINDS)
if stop then return stop end
local at_days = HEAD + 3 + WIDTH * tonumber(ARGV[HEAD + 1])
local limits = KEYS[tonumber(ARGV[at_days])]
local counting, less = {}, {}

-- Notes that a customer has `units` less of a line, if that is counted.
local function count_less(place, r, line, units)
  if absent[limits] or r.customer == '-' then return end
  local sku = string.match(line.pool, '^[^@]+')
  if counting[sku] == nil then counting[sku] = call('HGET', limits, sku) end
  if not counting[sku] then return end
  local at = at_days + 2 * place - 1
  less[#less + 1] = {KEYS[tonumber(ARGV[at])], tonumber(ARGV[at + 1]),
    format('%s@%s@%s', sku, string.match(counting[sku], '^%d+'), r.customer), -units}
end

local function unpaid(place, r, id, verb, wanted)
  if verb == 'release' then
    if r.state == 'L' then return 'already' end
    if stale(r, wanted) then return 'version' end
    if is_due(r) then return 'due' end
  elseif r.state == 'R' and not is_due(r) then
    return 'early'
  end
  if r.state ~= 'R' then return 'state' end
  local plan = all_open(r)
  if not plan or not all_there(r, RESERVED, plan) then return 'corrupt' end
  for line, units in planned_lines(r, plan) do
    give_back(id, r, line, units, RESERVED, 'reserved:' .. r.channel)
    count_less(place, r, line, units)
  end
  r.state = verb == 'release' and 'L' or 'X'
  return 'done'
end

local function cancel(place, r, id, parts, reason, wanted)
  local open, cancelled = all_open(r), 0
  for _, line in ipairs(r.lines) do cancelled = cancelled + line.cancelled end
  if parts == '' and not open and cancelled > 0 then return 'already' end
  if stale(r, wanted) then return 'version' end
  if r.state ~= 'C' then return is_due(r) and 'due' or 'state' end
  local plan, left = open, nil
  if parts ~= '' then
    plan, left = choose(r, parts)
    if not plan then return 'quantity', left end
  end
  if not all_there(r, COMMITTED, plan) then return 'corrupt' end
  for line, units in planned_lines(r, plan) do
    give_back(id, r, line, units, COMMITTED, 'committed:' .. r.channel)
    count_less(place, r, line, units)
    line.cancelled, line.open = line.cancelled + units, line.open - units
  end
  if reason ~= '' then moves[#moves + 1] = '# ' .. id .. ' ' .. reason end
  r.state = settled_state(r)
  return 'done'
end

local answer = settle(function(r, id, verb, parts, argument, wanted, place)
  if verb == 'cancel' then return cancel(place, r, id, parts, argument, wanted) end
  return unpaid(place, r, id, verb, wanted)
end, {cancel = true})
for _, each in ipairs(less) do book(each[1], each[2], each[3], each[4]) end
return answer

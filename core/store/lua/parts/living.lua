-- Part of the scripts that look at how many live reservations a customer has: reserved, not paid.
--
-- A sorted set has them while their number is bounded: "customer@id", all with score 0 and so in
-- the order of their bytes. A customer has no @ as a record spells it, and A is the byte behind @,
-- so those of one customer are the range from "customer@" to "customerA". `settle` takes out what
-- is not reserved any more, whether it was counted or not.

-- The customer of a record that counts, or nil.
local function who_holds(record)
  local customer = string.match(record, '^R %d+ %S+ %S+ %S+ %S+ %S+ (%S+) ')
  return customer ~= '-' and customer or nil
end

-- Of `count` new reservations (id, record) from ARGV[first] on those that are one too many: their
-- place (0-based) and how many their customer has, flat; and what to add for the others. What one
-- of them takes counts for those behind it.
local function meet_live(key, first, count, most)
  local held, over, fresh = {}, {}, {}
  for i = 0, count - 1 do
    local id, record = ARGV[first + 2 * i], ARGV[first + 2 * i + 1]
    local customer = who_holds(record)
    if customer then
      held[customer] = held[customer]
        or call('ZLEXCOUNT', key, '[' .. customer .. '@', '(' .. customer .. 'A')
      if held[customer] >= most then
        over[#over + 1], over[#over + 2] = i, held[customer]
      else
        held[customer] = held[customer] + 1
        fresh[#fresh + 1], fresh[#fresh + 2] = '0', customer .. '@' .. id
      end
    end
  end
  return over, fresh
end

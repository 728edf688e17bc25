-- Part of the scripts that change what customers have of SKUs with a limit per customer.
--
-- A hash of each UTC day holds the units of the reservations made on it (their ids say when): field
-- "sku@counting@customer" → reserved + committed + fulfilled − returned, where `counting` is the
-- number of the policy with which counting began. A limit is about the sum over the last days, the
-- present one included, and the one that has begun for workers whose clock is ahead. A reservation
-- is booked on its own day whatever becomes of it later; days that no limit reaches are not kept.
--
-- A script that plans gets entries in ARGV, 7 words each: field, units (more or less), units that
-- the record itself holds on a day that is not summed, index of its own day in KEYS, that day, days
-- that are summed, most units or "" (what is never refused).

local ENTRY = 7
local DAY_MS, KEPT_DAYS = 86400000, 31

-- What is too much: the place of the entry (0-based) and the units that the customer has, flat.
-- `days`: where the days stand in KEYS, from tomorrow back. What an entry takes counts for those
-- behind it.
local function over_limit(first, count, days)
  local fields, held, window, longest, over = {}, {}, {}, 0, {}
  for i = 0, count - 1 do
    local at = first + ENTRY * i
    local field = ARGV[at]
    if ARGV[at + 6] ~= '' and not held[field] then
      fields[#fields + 1] = field
      held[field], window[field] = 0, tonumber(ARGV[at + 5])
      longest = math.max(longest, window[field])
    end
  end
  for back = 0, #fields > 0 and longest or -1 do
    local key = KEYS[days + back]
    local found = absent[key] and {} or call('HMGET', key, unpack(fields))
    for i, field in ipairs(fields) do
      if found[i] and back <= window[field] then held[field] = held[field] + tonumber(found[i]) end
    end
  end
  for i = 0, count - 1 do
    local at = first + ENTRY * i
    local field, units, own = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 3])
    if held[field] then
      local has = held[field] + tonumber(ARGV[at + 2])
      if ARGV[at + 6] ~= '' and has + units > tonumber(ARGV[at + 6]) then
        over[#over + 1], over[#over + 2] = i, format('%d', has)
      elseif own >= days and own <= days + window[field] then
        held[field] = held[field] + units
      end
    end
  end
  return over
end

-- Units of a customer more or less on the day of the reservation.
local function book(key, day, field, units)
  if units == 0 or day <= math.floor(now / DAY_MS) - KEPT_DAYS then return end
  if call('HINCRBY', key, field, format('%d', units)) == 0 then call('HDEL', key, field) end
end

-- Books all entries.
local function book_all(first, count)
  for at = first, first + ENTRY * (count - 1), ENTRY do
    book(KEYS[tonumber(ARGV[at + 3])], tonumber(ARGV[at + 4]), ARGV[at], tonumber(ARGV[at + 1]))
  end
end

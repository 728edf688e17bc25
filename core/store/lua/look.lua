#!lua flags=no-writes,allow-oom
-- look: what a worker must see before it plans or refuses.
--
-- Guarantees: all of it is of one instant; nothing is written.
-- KEYS 1 meta 2 pools 3 skus 4 h 5 h before 6 w 7 w before 8… due lists
-- ARGV head, then rows, skus, keys; rows × (pool), skus × (sku), keys × (field);
--      per due list: how many entries were seen there with nothing due, and until when (ms) that
--      holds
-- Returns applied, rows, entries of skus, values of keys ("" for what is not there),
--      per due list its first entries, or nothing if none can be due; about 1,000 ids in all, and
--      '' for a list that had no room
-- Event: none
--%include shard

local stop = open_shard({'hash', 'hash', 'hash', 'hash', 'hash', 'hash', 'hash', 'list'})
if stop then return stop end
local rows, skus, keys = tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13])
local at = HEAD + 4

local function read(key, count)
  local values = {}
  if count > 0 then
    values = call('HMGET', key, unpack(ARGV, at, at + count - 1))
    for i = 1, count do values[i] = values[i] or '' end
  end
  return values
end

local found_rows = read(KEYS[2], rows)
at = at + rows
local found_skus = read(KEYS[3], skus)
at = at + skus
local values, found_keys = {}, {}
known_keys(values, KEYS[4], at, keys)
if KEYS[5] ~= KEYS[4] then known_keys(values, KEYS[5], at, keys) end
for i = 1, keys do
  local field = ARGV[at]
  if of_batch(field) then values[at] = known_key(KEYS[6], KEYS[7], field) end
  found_keys[i] = values[at] or ''
  at = at + 1
end
local due, room = {}, 1000

-- The first entries of a due list, until there is no more room.
local function first_entries(key)
  local entries, count = {}, 0
  repeat
    local found = call('LRANGE', key, count, count + 15)
    for i = 1, #found do
      if room <= 0 then return entries end
      count = count + 1
      entries[count] = found[i]
      room = room - math.ceil(#found[i] / 37)   -- ids of 36 characters, a blank between them
    end
  until #found < 16
  return entries
end

for i = 8, #KEYS do
  local seen, quiet_until = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
  at = at + 2
  if ARGV[10] == '1' and (call('LLEN', KEYS[i]) ~= seen or now >= quiet_until) then
    due[#due + 1] = room > 0 and first_entries(KEYS[i]) or {''}
  else
    due[#due + 1] = {}
  end
end
return reply('applied', found_rows, found_skus, found_keys, due)

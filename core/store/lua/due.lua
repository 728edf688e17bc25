#!lua flags=allow-oom
-- due: tidies the lists of deadlines after their reservations were settled.
--
-- Guarantees: an id leaves a list only if its record is gone, ended, or has its deadline in another
-- second, or if it cannot expire: then it is entered again in a later list; the cursor moves on
-- only over empty lists of passed seconds.
-- KEYS 1 meta 2 the later list, then due lists, then buckets
-- ARGV head, then lists; per list: second, its first entries; per entry: how many ids it has; per
--      id: index of its bucket in KEYS, id, "1" if it cannot expire or ""
-- Returns applied, per list (entries left, entries kept, earliest deadline among those kept or 0)
-- Event: none; no stock moves
--%include shard

local lists = tonumber(ARGV[HEAD + 1])
local kinds = {'hash'}
for i = 2, #KEYS do kinds[i] = i <= lists + 2 and 'list' or 'hash' end
local stop = open_shard(kinds)
if stop then return stop end
local at, cursor, answers = HEAD + 2, tonumber(meta[9]), {}
local second, put_off, earliest

-- An entry of `count` ids from ARGV[at] on: its text, and that of its ids that stay, or nil.
local function sift(count)
  local ids, kept = {}, {}
  for k = 1, count do
    local bucket, id, off = KEYS[tonumber(ARGV[at])], ARGV[at + 1], ARGV[at + 2]
    at = at + 3
    ids[k] = id
    local text = call('HGET', bucket, id)
    local deadline = text and string.match(text, '^R %d+ %S+ (%d+) ')
    if text and off == '1' then
      put_off[#put_off + 1] = id
    elseif deadline and math.floor(tonumber(deadline) / 1000) == second then
      kept[#kept + 1] = id
      if earliest == 0 or tonumber(deadline) < earliest then earliest = tonumber(deadline) end
    end
  end
  return table.concat(ids, ' '), kept[1] and table.concat(kept, ' ')
end

for i = 1, lists do
  local key, count = KEYS[i + 2], tonumber(ARGV[at + 1])
  local head, mine, changed, kept = {}, true, false, {}
  second, put_off, earliest = tonumber(ARGV[at]), {}, 0
  at = at + 2
  if count > 0 then head = call('LRANGE', key, 0, count - 1) end
  for k = 1, count do
    at = at + 1
    local entry, left = sift(tonumber(ARGV[at - 1]))
    mine, changed = mine and head[k] == entry, changed or left ~= entry
    kept[#kept + 1] = left
  end
  if mine and changed then
    call('LTRIM', key, count, -1)
    if #kept > 0 then call('RPUSH', key, unpack(kept)) end
    if #put_off > 0 then call('RPUSH', KEYS[2], unpack(put_off)) end
  end
  local left = call('LLEN', key)
  answers[3 * i - 2], answers[3 * i - 1], answers[3 * i] = left, #kept, format('%d', earliest)
  if left == 0 and cursor == second and (second + 1) * 1000 <= now then cursor = second + 1 end
end
if cursor ~= tonumber(meta[9]) then
  meta[9] = format('%d', cursor)
  call('HSET', KEYS[1], 'cursor', meta[9])
end
return reply('applied', answers)

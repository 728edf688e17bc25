#!lua flags=allow-oom
-- policy: sets or removes a channel or a location; from now on nothing is planned on the policy
-- before.
--
-- Guarantees: the policy is the one that the change was checked against; its number grows by one.
-- KEYS 1 meta 2 channels or locations 3 events 4 h 5 h before
-- ARGV head (3 is the number it was checked against), then kind, name, new entry or "",
--      key or "", value
-- Returns applied (the new number) | policy | known (value)
-- Event policy: kind, name and entry ("" for one that is gone), b entry before, h key
--%include shard

local told = ARGV[3]
ARGV[3] = ''
local stop = open_shard({'hash', 'hash', 'stream', 'hash', 'hash'})
if stop then return stop end
local kind, name, entry, key, value = ARGV[11], ARGV[12], ARGV[13], ARGV[14], ARGV[15]
local known = key ~= '' and known_key(KEYS[4], KEYS[5], key)
if known then return reply('known', known) end
local before = call('HGET', KEYS[2], name) or ''
if before == entry then return reply('applied', meta[4]) end
if meta[4] ~= told then return reply('policy') end

local event = {kind, name .. '\n' .. entry, 'b', before}
note_keys(event, key ~= '' and {key, value} or {}, {})
append_event(KEYS[3], 'policy', unpack(event))
local number = format('%d', tonumber(meta[4]) + 1)
call('HSET', KEYS[1], 'policy', number)
if entry == '' then call('HDEL', KEYS[2], name) else call('HSET', KEYS[2], name, entry) end
if key ~= '' then call('HSET', KEYS[4], key, value) end
return reply('applied', number)

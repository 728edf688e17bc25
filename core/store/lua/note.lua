#!lua flags=allow-oom
-- note: writes down what somebody did or read that no other event tells of.
--
-- Guarantees: nothing but the event.
-- KEYS 1 meta 2 events
-- ARGV head, then verb, target, what was before or "", what is after or ""
-- Returns applied
-- Event note: n verb, target, before and after, a line each
--%include shard

local stop = open_shard({'hash', 'stream'})
if stop then return stop end
append_event(KEYS[2], 'note', 'n', table.concat({unpack(ARGV, HEAD + 1, HEAD + 4)}, '\n'))
return reply('applied')

#!lua flags=allow-oom
-- drop: a channel that is being deleted leaves these pools, as planned; all of them or none.
--
-- Guarantees: every row is the one that was planned on; nothing is rebased.
-- KEYS 1 meta 2 pools 3 events
-- ARGV head, then pools, moves; pools × (name), × (old row), × (new row), × (deltas)
-- Returns applied | conflict
-- Event drop: p rows, m moves
--%include shard
--%include rows

local stop = open_shard({'hash', 'hash', 'stream'})
if stop then return stop end
local outcome, set = meet_plan(KEYS[2], HEAD + 3, tonumber(ARGV[11]))
if outcome ~= 'applied' then return reply('conflict') end

append_event(KEYS[3], 'drop', 'p', table.concat(set, '\n'), 'm', ARGV[12])
call_many('HSET', KEYS[2], set)
return reply('applied')

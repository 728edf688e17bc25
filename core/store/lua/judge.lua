#!lua flags=no-writes,allow-oom
-- judge: whether reservations may be planned anew, for a batch, each on its own.
--
-- Guarantees: nothing is written. `amend` needs a reservation that is alive or committed, `return`
-- one that was committed and not cancelled whole.
-- KEYS, ARGV, reply: see parts/records.lua. Verbs: amend, return.
-- Codes: plan (detail: the record to plan on), state, due, version, gone, replay, reused, corrupt,
--      later
-- Event: none
--%include shard
--%include rows
--%include records

local stop = open_shard(KINDS)
if stop then return stop end
local KEPT_LONG = {['return'] = true}
local MAY = {amend = {R = true, C = true}, ['return'] = {C = true, F = true, T = true}}

local answers, lines = {}, 0
for i = 1, tonumber(ARGV[HEAD + 1]) do
  local at = HEAD + 3 + (i - 1) * WIDTH
  local r, code, detail = nil, 'later', ''
  if lines < LINES_MAX then r, code, detail = meet_record(at, KEPT_LONG) end
  if r then
    lines, detail = lines + #r.lines, r.text
    if stale(r, ARGV[at + 3]) then
      code = 'version'
    elseif is_due(r) then
      code = 'due'
    else
      code = MAY[ARGV[at + 2]][r.state] and 'plan' or 'state'
    end
  end
  answers[#answers + 1], answers[#answers + 2] = code, detail
end
return reply('applied', answers, {})

#!lua
-- import: a part of a file: SKUs and pools that are new, units, reservations; and how far it is.
--
-- Guarantees: as reserve for rows; each entry of a SKU is the one that was planned on; the import
-- is where it was when this part was planned and moves on with it, so no part counts twice.
-- KEYS 1 meta 2 pools 3 skus 4 catalog 5 imports 6 events 7 done list 8 bucket of the new records
--      9… days of customers
-- ARGV head, then pools, skus, records, ended; the file's hash, its position before and after;
--      its name and the file that was imported last under that name ("", "" = does not matter);
--      moves as one text, entries of customers; pools × (name), × (old row), × (new row),
--      × (deltas); skus × (sku, old entry, new entry); records × (id, record); ended × (id);
--      entries: see parts/customers.lua
-- Returns applied | rebased | conflict | moved (the file's position, the last file of that name)
-- Event import: p rows, m moves ("import pool from to units reference reason occurred_at", where
--      the reference is the file's name, or the reservation's id), s entries of skus, r records,
--      i the file's hash and position, and the last file of its name
--%include shard
--%include rows
--%include customers

local pools, skus = tonumber(ARGV[11]), tonumber(ARGV[12])
local records, ended = tonumber(ARGV[13]), tonumber(ARGV[14])
local file, before, after = ARGV[15], ARGV[16], ARGV[17]
local name, last, counts = ARGV[18], ARGV[19], tonumber(ARGV[21])
local at_pools = HEAD + 12
local at_skus = at_pools + 4 * pools
local at_records = at_skus + 3 * skus
local at_ended = at_records + 2 * records

local stop = open_shard(
  {'hash', 'hash', 'hash', 'zset', 'hash', 'stream', 'list', 'hash'}, function()
    local position = call('HGET', KEYS[5], file) or ''
    local known = call('HGET', KEYS[5], name) or ''
    if position ~= before or (name ~= '' and known ~= last) then
      return reply('moved', position, known)
    end
  end)
if stop then return stop end
local outcome, set = meet_plan(KEYS[2], at_pools, pools)
local entries, fresh = {}, {}
for i = 0, skus - 1 do
  local at = at_skus + 3 * i
  if (call('HGET', KEYS[3], ARGV[at]) or '') ~= ARGV[at + 1] then outcome = 'conflict' end
  entries[2 * i + 1], entries[2 * i + 2] = ARGV[at], ARGV[at + 2]
  if ARGV[at + 1] == '' then fresh[#fresh + 1], fresh[#fresh + 2] = '0', ARGV[at] end
end
if outcome == 'conflict' then return reply(outcome) end

local position = file .. '\n' .. after
if name ~= '' then position = position .. '\n' .. name .. '\n' .. file end
append_event(KEYS[6], 'import', 'p', table.concat(set, '\n'), 'm', ARGV[20],
  's', table.concat(entries, '\n'),
  'r', table.concat(ARGV, '\n', at_records, at_ended - 1), 'i', position)
call_many('HSET', KEYS[2], set)
call_many('HSET', KEYS[3], entries)
call_many('ZADD', KEYS[4], fresh)
if records > 0 then call('HSET', KEYS[8], unpack(ARGV, at_records, at_ended - 1)) end
if ended > 0 then call('RPUSH', KEYS[7], unpack(ARGV, at_ended, at_ended + ended - 1)) end
book_all(at_ended + ended, counts)
if after ~= before then call('HSET', KEYS[5], file, after) end
if name ~= '' then call('HSET', KEYS[5], name, file) end
return reply(outcome)

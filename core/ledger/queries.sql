-- Every question that the service asks PostgreSQL, by name. Names are whole: a pooler that hands
-- out a connection per transaction keeps no search_path.

-- name: schema_version
SELECT coalesce(max(number), 0) FROM stockade.migration

-- name: may_change_movements
SELECT has_table_privilege(current_user, 'stockade.movement', 'UPDATE')
    OR has_table_privilege(current_user, 'stockade.movement', 'DELETE')
    OR has_table_privilege(current_user, 'stockade.movement', 'TRUNCATE')

-- name: mark
SELECT epoch, seq, position, policy, time_ms, seen_ms FROM stockade.mark WHERE shard = $1

-- name: begin_mark
WITH begun AS (
  INSERT INTO stockade.mark (shard, epoch, seq, position, policy, time_ms, seen_ms)
  VALUES ($1, $2, 0, 0, 1, $3, $3)
  ON CONFLICT (shard) DO NOTHING
  RETURNING shard
)
INSERT INTO stockade.policy (kind, name, entry) SELECT 'location', 'main', $4 FROM begun

-- name: move_mark
UPDATE stockade.mark
SET seq = $4, position = $5, policy = $6, time_ms = $7, seen_ms = $7
WHERE shard = $1 AND epoch = $2 AND seq = $3

-- name: see_mark
UPDATE stockade.mark SET seen_ms = $4 WHERE shard = $1 AND epoch = $2 AND seq = $3

-- name: open_month
SELECT stockade.open_month($1)

-- name: rows
SELECT n.pool, p.row
FROM unnest($1::text[], $2::text[], $3::text[]) AS n (pool, sku, location)
JOIN stockade.pool p ON p.sku = n.sku AND p.location = n.location

-- name: put_pools
INSERT INTO stockade.pool AS p
  (sku, location, version, position, row, on_hand, promised, sellable, deficit)
SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::text[], $6::bigint[],
  $7::bigint[], $8::bigint[], $9::bigint[])
ON CONFLICT (sku, location) DO UPDATE
SET version = excluded.version, position = excluded.position, row = excluded.row,
  on_hand = excluded.on_hand, promised = excluded.promised, sellable = excluded.sellable,
  deficit = excluded.deficit
WHERE p.version < excluded.version

-- name: change_reservations
UPDATE stockade.reservation r
SET state = n.state::"char", version = n.version, position = n.position, reference = n.reference,
  record = n.record
FROM unnest($1::uuid[], $2::integer[], $3::text[], $4::integer[], $5::bigint[], $6::text[],
  $7::text[]) AS n (id, was, state, version, position, reference, record)
WHERE r.id = n.id AND r.version = n.was

-- name: put_policy
INSERT INTO stockade.policy (kind, name, entry)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[]) AS n (kind, name, entry)
WHERE n.entry <> ''
ON CONFLICT (kind, name) DO UPDATE SET entry = excluded.entry

-- name: drop_policy
DELETE FROM stockade.policy p
USING unnest($1::text[], $2::text[], $3::text[]) AS n (kind, name, entry)
WHERE n.entry = '' AND p.kind = n.kind AND p.name = n.name

-- name: put_import
INSERT INTO stockade.import (field, value) VALUES ($1, $2)
ON CONFLICT (field) DO UPDATE SET value = excluded.value

-- name: drop_keys
DELETE FROM stockade.idempotency_keys WHERE time_ms < $1 AND (NOT long OR time_ms < $2)

-- name: record
SELECT record FROM stockade.reservation WHERE id = $1

-- name: fence_mark
UPDATE stockade.mark SET epoch = $4, seq = 0 WHERE shard = $1 AND epoch = $2 AND seq = $3

-- name: begin_rebuild
INSERT INTO stockade.rebuild (epoch, started_at, lost_epoch, lost_seq, lost_position, lost_time_ms,
  lost_seen_ms, carried, whole, reason, named)
VALUES ($1, to_timestamp($2 / 1000.0), $3, $4, $5, $6, $7, $8, $9, $10, $11)

-- name: end_rebuild
INSERT INTO stockade.rebuild_end (epoch, finished_at, counts, moved, outage_ms)
VALUES ($1, to_timestamp($2 / 1000.0), $3::jsonb, $4, $5)

-- name: unfinished_rebuild
SELECT r.lost_epoch, r.lost_seq, r.lost_position, r.lost_time_ms, r.lost_seen_ms, r.carried,
  r.whole, r.reason, r.named
FROM stockade.rebuild r LEFT JOIN stockade.rebuild_end e USING (epoch)
WHERE r.epoch = $1 AND e.epoch IS NULL

-- name: last_rebuild
SELECT r.epoch, r.lost_epoch, r.lost_seq, r.lost_position, r.lost_time_ms, r.lost_seen_ms, r.carried,
  r.whole, r.reason, r.named, e.counts, e.moved, e.outage_ms,
  extract(epoch FROM r.started_at) AS started, extract(epoch FROM e.finished_at) AS finished
FROM stockade.rebuild r JOIN stockade.rebuild_end e USING (epoch)
ORDER BY r.epoch DESC LIMIT 1

-- name: rebuild_sizes
SELECT (SELECT count(*) FROM stockade.policy) AS policies,
  (SELECT count(*) FROM stockade.import) AS imports,
  (SELECT count(*) FROM stockade.pool) AS pools,
  (SELECT count(*) FROM stockade.reservation WHERE state IN ('R', 'C')) AS reservations,
  (SELECT count(*) FROM stockade.idempotency_keys WHERE time_ms >= $1 OR long AND time_ms >= $2)
    AS scripts

-- name: rebuild_policies
SELECT kind, name, entry FROM stockade.policy

-- name: rebuild_imports
SELECT field, value FROM stockade.import

-- name: rebuild_pools
SELECT sku || '@' || location AS pool, row FROM stockade.pool

-- name: rebuild_reservations
SELECT id::text AS id, record FROM stockade.reservation WHERE state IN ('R', 'C')

-- name: rebuild_passed
SELECT id::text AS id, record FROM stockade.reservation
WHERE CASE state WHEN 'R' THEN split_part(record, ' ', 4)::bigint END BETWEEN $1 AND $2

-- name: rebuild_keys
SELECT time_ms, long, keys FROM stockade.idempotency_keys
WHERE time_ms >= $1 OR long AND time_ms >= $2
ORDER BY position

-- name: position_at
-- The first position from which on movements are of $1 or later; $2 is the last there is. Found by
-- halving: in the order of positions time goes on, unless the store's clock went back.
WITH RECURSIVE search (low, high) AS (
  SELECT 0::bigint, $2::bigint + 1
  UNION ALL
  SELECT CASE WHEN late THEN low ELSE middle END, CASE WHEN late THEN middle ELSE high END
  FROM (SELECT low, high, (low + high) / 2 AS middle FROM search WHERE low + 1 < high) s
  CROSS JOIN LATERAL (
    SELECT coalesce((
      SELECT m.time FROM stockade.movement m
      WHERE m.position >= s.middle ORDER BY m.position LIMIT 1
    ), 'infinity') >= $1::timestamptz AS late
  ) f
)
SELECT min(high) FROM search

-- name: deficits
SELECT count(DISTINCT sku) FROM stockade.pool
WHERE deficit > 0 AND ($1::text IS NULL OR sku = $1) AND ($2::text IS NULL OR location = $2)

-- name: stock_moved
SELECT * FROM stockade.movement
WHERE position > $1 AND position <= $2 AND reservation IS NULL
ORDER BY position

-- name: balanced
SELECT position, time, sku, location, version, row, on_hand, deficit, was_deficit
FROM stockade.balance
WHERE position > $1 AND position <= $2
ORDER BY position

-- name: versions
SELECT position, time, reservation, verb, record
FROM stockade.reservation_version
WHERE position > $1 AND position <= $2
ORDER BY position

-- name: policies_changed
SELECT position, time, kind, name, entry
FROM stockade.policy_version
WHERE position > $1 AND position <= $2
ORDER BY position

-- name: rows_at
SELECT b.sku, b.location, b.version, b.row
FROM unnest($1::text[], $2::text[], $3::bigint[]) AS n (sku, location, version)
JOIN stockade.balance b
  ON b.sku = n.sku AND b.location = n.location AND b.version = n.version

-- name: places
SELECT kind, name, entry FROM stockade.policy WHERE kind IN ('channel', 'location')

-- name: versions_of
SELECT time, version, verb, record
FROM stockade.reservation_version
WHERE reservation = $1
ORDER BY version

-- name: pools_of
SELECT location, version, row FROM stockade.pool WHERE sku = $1 ORDER BY location

-- name: newest_movements
SELECT m.*
FROM stockade.pool p
CROSS JOIN LATERAL (
  SELECT * FROM stockade.movement
  WHERE sku = p.sku AND location = p.location
  ORDER BY position DESC LIMIT $2
) m
WHERE p.sku = $1
ORDER BY m.position DESC LIMIT $2

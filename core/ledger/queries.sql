-- Every question that the service asks PostgreSQL, by name. Names are whole: a pooler that hands
-- out a connection per transaction keeps no search_path.

-- name: schema_version
SELECT coalesce(max(number), 0) FROM stockade.migration

-- name: may_change_the_past
SELECT coalesce(bool_or(
  has_table_privilege(c.oid, 'DELETE, TRUNCATE') OR has_any_column_privilege(c.oid, 'UPDATE')
), false)
FROM pg_catalog.pg_class c
WHERE c.relnamespace = 'stockade'::regnamespace AND c.relkind IN ('r', 'p')
  AND c.relname ~ '^(movement|balance|reservation_version|policy_version|audit)(_|$)'

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

-- name: audit
SELECT position, time, actor, request, verb, target, before, after
FROM stockade.audit
WHERE position > $1 AND ($2::text IS NULL OR actor = $2) AND ($3::text IS NULL OR target = $3)
  AND ($4::timestamptz IS NULL OR time >= $4) AND ($5::timestamptz IS NULL OR time < $5)
ORDER BY position LIMIT $6

-- name: forget
SELECT looked, forgot FROM stockade.forget($1, $2)

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

-- name: policy_position
SELECT position FROM stockade.policy_version
WHERE kind = 'sku' AND name = $1 AND entry = $2 ORDER BY position DESC LIMIT 1

-- What customers had of a SKU before a position, by the day of their reservations since an id: what
-- was taken and neither given back nor returned.
-- name: customers_before
SELECT (('x' || translate(left(t.reservation::text, 13), '-', ''))::bit(48)::bigint
    / 86400000)::integer AS day,
  split_part(v.record, ' ', 8) AS customer,
  sum(split_part(body, ',', 1)::bigint + split_part(body, ',', 2)::bigint
    - coalesce(nullif(split_part(body, ',', 4), ''), '0')::bigint
    - coalesce(nullif(split_part(body, ',', 5), ''), '0')::bigint)::bigint AS units
FROM (
  SELECT DISTINCT reservation FROM stockade.movement
  WHERE sku = $1 AND reservation >= $3 AND verb IN ('reserve', 'amend', 'import')
    AND position < $2
) t
CROSS JOIN LATERAL (
  SELECT record FROM stockade.reservation_version
  WHERE reservation = t.reservation AND position < $2
  ORDER BY version DESC LIMIT 1
) v
CROSS JOIN LATERAL (
  SELECT split_part(word, '@', 3) AS body
  FROM unnest((string_to_array(v.record, ' '))[10:]) AS word
  WHERE split_part(word, '@', 1) = $1
) line
WHERE left(v.record, 1) NOT IN ('L', 'X') AND split_part(v.record, ' ', 8) <> '-'
GROUP BY 1, 2
HAVING sum(split_part(body, ',', 1)::bigint + split_part(body, ',', 2)::bigint
    - coalesce(nullif(split_part(body, ',', 4), ''), '0')::bigint
    - coalesce(nullif(split_part(body, ',', 5), ''), '0')::bigint) <> 0

-- What some customers have of some SKUs, by the day of their reservations since an id.
-- name: units_of_customers
SELECT n.sku, split_part(r.record, ' ', 8) AS customer,
  (('x' || translate(left(r.id::text, 13), '-', ''))::bit(48)::bigint / 86400000)::integer AS day,
  sum(split_part(body, ',', 1)::bigint + split_part(body, ',', 2)::bigint
    - coalesce(nullif(split_part(body, ',', 4), ''), '0')::bigint
    - coalesce(nullif(split_part(body, ',', 5), ''), '0')::bigint)::bigint AS units
FROM unnest($1::text[], $2::text[]) AS n (sku, customer)
JOIN stockade.reservation r ON r.customer = n.customer AND r.id >= $3
CROSS JOIN LATERAL (
  SELECT split_part(word, '@', 3) AS body
  FROM unnest((string_to_array(r.record, ' '))[10:]) AS word
  WHERE split_part(word, '@', 1) = n.sku
) line
WHERE r.state NOT IN ('L', 'X')
GROUP BY 1, 2, 3

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
SELECT kind, name, entry FROM stockade.policy WHERE kind IN ('channel', 'location', 'mode')

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
-- --- reconciling: what is read -----------------------------------------------------------------

-- The ledger as of one mark: every pool, what live reservations hold there, and up to where it was
-- verified. One pass over the live reservations; PostgreSQL spills what does not fit its memory.
-- name: declare_inside
DECLARE inside NO SCROLL CURSOR FOR
WITH line AS (
  SELECT split_part(word, '@', 1) AS sku, split_part(word, '@', 2) AS location,
    CASE r.state WHEN 'R' THEN 'reserved:' ELSE 'committed:' END || r.channel AS account,
    split_part(word, '@', 3) AS body
  FROM stockade.reservation r
  CROSS JOIN LATERAL unnest((string_to_array(r.record, ' '))[10:]) AS word
  WHERE r.state IN ('R', 'C') AND ($1::text IS NULL OR strpos(r.record, ' ' || $1 || '@') > 0)
), open AS (
  SELECT sku, location, account, sum(
    split_part(body, ',', 1)::bigint + split_part(body, ',', 2)::bigint
    - coalesce(nullif(split_part(body, ',', 3), ''), '0')::bigint
    - coalesce(nullif(split_part(body, ',', 4), ''), '0')::bigint
  )::bigint AS units
  FROM line
  WHERE $1::text IS NULL OR sku = $1
  GROUP BY sku, location, account
), held AS (
  SELECT sku, location, jsonb_object_agg(account, units) AS accounts
  FROM open WHERE units <> 0 GROUP BY sku, location
), pool AS (
  SELECT * FROM stockade.pool p WHERE $1::text IS NULL OR p.sku = $1
)
SELECT sku, location, p.version, p.position, p.row, p.on_hand, h.accounts AS held,
  v.version AS verified_version, v.position AS verified_position
FROM pool p
FULL JOIN held h USING (sku, location)
LEFT JOIN stockade.verified v USING (sku, location)

-- name: fetch_inside
FETCH 500 FROM inside

-- name: pool_count
SELECT count(*) FROM stockade.pool WHERE $1::text IS NULL OR sku = $1

-- What moved between two positions of a pool, by where it came from and went to.
-- name: moved_between
SELECT n.pool, m.source, m.target, m.units
FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[])
  AS n (pool, sku, location, after, upto)
CROSS JOIN LATERAL (
  SELECT source, target, sum(quantity)::bigint AS units FROM stockade.movement
  WHERE sku = n.sku AND location = n.location AND position > n.after AND position <= n.upto
  GROUP BY source, target
) m

-- name: balances
SELECT n.pool, b.row
FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) AS n (pool, sku, location, version)
JOIN stockade.balance b ON b.sku = n.sku AND b.location = n.location AND b.version = n.version

-- name: put_verified
INSERT INTO stockade.verified AS v (sku, location, version, position)
SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[])
ON CONFLICT (sku, location) DO UPDATE
SET version = excluded.version, position = excluded.position
WHERE v.position < excluded.position

-- name: pools_behind
SELECT sku, location, version, row FROM stockade.pool
WHERE (sku, location) > ($1, $2) AND ($3::text IS NULL OR sku = $3)
ORDER BY sku, location LIMIT $4

-- name: live_behind
SELECT id::text, version FROM stockade.reservation
WHERE state IN ('R', 'C') AND id > $1 ORDER BY id LIMIT $2

-- name: record_versions
SELECT n.id::text, v.record
FROM unnest($1::uuid[], $2::integer[]) AS n (id, version)
JOIN stockade.reservation_version v ON v.reservation = n.id AND v.version = n.version

-- name: records
SELECT id::text, version, record FROM stockade.reservation WHERE id = ANY($1::uuid[])

-- name: oversold
SELECT coalesce(sum(deficit), 0)::bigint FROM stockade.pool WHERE deficit > 0

-- Orders that wait for units that are not there: short themselves, or of a pool with a deficit.
-- name: oversold_orders
SELECT count(*) FROM stockade.reservation r
WHERE r.state = 'C' AND EXISTS (
  SELECT FROM unnest((string_to_array(r.record, ' '))[10:]) AS word
  WHERE split_part(split_part(word, '@', 3), ',', 7) <> '' OR EXISTS (
    SELECT FROM stockade.pool p
    WHERE p.sku = split_part(word, '@', 1) AND p.location = split_part(word, '@', 2)
      AND p.deficit > 0
      AND split_part(split_part(word, '@', 3), ',', 1)::bigint
        + split_part(split_part(word, '@', 3), ',', 2)::bigint
        > coalesce(nullif(split_part(split_part(word, '@', 3), ',', 3), ''), '0')::bigint
        + coalesce(nullif(split_part(split_part(word, '@', 3), ',', 4), ''), '0')::bigint))

-- Movements of a pool to look at: first those of exactly so many units from or to outside.
-- name: suspects_of_pool
SELECT n.pool, m.position
FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) AS n (pool, sku, location, units)
CROSS JOIN LATERAL (
  SELECT position FROM (
    SELECT position, source, target, quantity FROM stockade.movement
    WHERE sku = n.sku AND location = n.location ORDER BY position DESC LIMIT 100
  ) newest
  ORDER BY quantity = n.units AND 'outside' IN (source, target) DESC, position DESC LIMIT 5
) m

-- name: suspects_of_record
SELECT n.id::text AS pool, m.position
FROM unnest($1::uuid[]) AS n (id)
CROSS JOIN LATERAL (
  SELECT position FROM stockade.movement WHERE reservation = n.id ORDER BY position DESC LIMIT 5
) m

-- --- reconciling: what is kept -----------------------------------------------------------------

-- name: begin_reconciliation
INSERT INTO stockade.reconciliation (night, sku, whole) VALUES ($1, $2, $3)
ON CONFLICT (night) DO NOTHING
RETURNING id

-- name: give_night_back
UPDATE stockade.reconciliation SET night = NULL WHERE id = $1 AND finished_at IS NULL

-- name: finish_reconciliation
WITH worst AS (
  SELECT sku, location, max(units) FILTER (WHERE kind IN ('row', 'fold', 'held')) AS off,
    max(units) FILTER (WHERE kind = 'count') AS counted_off, count(*) AS cases
  FROM stockade.reconciliation_case WHERE seen_in = $1 GROUP BY sku, location
), total AS (
  SELECT coalesce(sum(off), 0)::bigint AS off, coalesce(sum(counted_off), 0)::bigint AS counted_off,
    coalesce(sum(cases), 0)::bigint AS cases FROM worst
)
UPDATE stockade.reconciliation r
SET position = $2, pools = $3, reservations = $4, counts = $5, on_hand = $6::bigint, counted_on_hand = $7::bigint,
  oversold_units = $8, oversold_orders = $9, units_off = t.off, counted_off = t.counted_off,
  differences = t.cases, variance_rate = greatest(
    least(1, CASE WHEN t.off = 0 THEN 0 ELSE t.off::double precision / greatest($6::bigint, 1) END),
    least(1, CASE WHEN t.counted_off = 0 THEN 0
      ELSE t.counted_off::double precision / greatest($7::bigint, 1) END))
FROM total t
WHERE r.id = $1
RETURNING r.variance_rate

-- The rate of the day before: the last whole reconciliation of that day.
-- name: rate_of_day
SELECT variance_rate FROM stockade.reconciliation
WHERE sku IS NULL AND finished_at >= $1 AND finished_at < $1 + interval '1 day'
ORDER BY id DESC LIMIT 1

-- name: judge_reconciliation
UPDATE stockade.reconciliation SET status = $2, reasons = $3, finished_at = now() WHERE id = $1

-- name: reconciliations
SELECT * FROM stockade.reconciliation
WHERE finished_at IS NOT NULL AND ($1::bigint IS NULL OR id < $1) ORDER BY id DESC LIMIT $2

-- name: put_cases
INSERT INTO stockade.reconciliation_case AS c
  (kind, subject, sku, location, cause, expected, found, units, movements, seen_in)
SELECT kind, subject, sku, location, cause, expected, found, units,
  string_to_array(movements, ',')::bigint[], $10
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
  $8::bigint[], $9::text[])
  AS n (kind, subject, sku, location, cause, expected, found, units, movements)
ON CONFLICT (kind, subject) WHERE closed_at IS NULL DO UPDATE
SET cause = excluded.cause, expected = excluded.expected, found = excluded.found,
  units = excluded.units, movements = excluded.movements, seen_at = now(),
  seen_in = greatest(c.seen_in, excluded.seen_in)

-- name: close_vanished
UPDATE stockade.reconciliation_case SET state = 'vanished', closed_at = now()
WHERE closed_at IS NULL AND seen_in < $1 AND kind = ANY($2::text[])
  AND ($3::text IS NULL OR sku = $3)

-- name: close_counted
UPDATE stockade.reconciliation_case SET state = 'vanished', closed_at = now()
WHERE closed_at IS NULL AND kind = 'count' AND subject = ANY($1::text[])

-- name: cases_of
SELECT *, now() - opened_at AS age FROM stockade.reconciliation_case
WHERE seen_in = $1 AND id > $2 ORDER BY id LIMIT $3

-- name: cases_unclosed
SELECT *, now() - opened_at AS age FROM stockade.reconciliation_case
WHERE closed_at IS NULL AND id > $1 ORDER BY id LIMIT $2

-- name: explain_case
UPDATE stockade.reconciliation_case SET state = 'explained', note = $2, person = $3
WHERE id = $1 AND closed_at IS NULL

-- name: close_repaired
UPDATE stockade.reconciliation_case
SET state = 'repaired', note = concat_ws('; ', note, $2::text), person = $3, closed_at = now()
WHERE id = $1 AND closed_at IS NULL

-- name: accept_drift
INSERT INTO stockade.drift (epoch, seq, sku, location, reason, person)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (epoch, seq, sku, location) DO NOTHING

-- name: accepted_drift
SELECT epoch, seq, sku || '@' || location AS pool, reason FROM stockade.drift

-- What is watched. The first reads every reservation; whoever asks takes care not to ask often.
-- name: live
SELECT state::text AS state, channel, count(*) AS count, min(id::text) AS first
FROM stockade.reservation WHERE state IN ('R', 'C') GROUP BY state, channel

-- name: pool_totals
SELECT coalesce(sum(on_hand), 0)::bigint AS on_hand, coalesce(sum(promised), 0)::bigint AS promised,
  coalesce(sum(deficit), 0)::bigint AS deficit, count(*) FILTER (WHERE deficit > 0) AS with_deficit
FROM stockade.pool

-- name: drift_found
SELECT (SELECT count(*) FROM stockade.reconciliation_case WHERE closed_at IS NULL) AS open_cases,
  coalesce(r.differences, 0) AS differences, coalesce(r.units_off, 0) AS units_off,
  coalesce(r.variance_rate, 0) AS variance_rate, coalesce(r.oversold_units, 0) AS oversold_units,
  coalesce(r.oversold_orders, 0) AS oversold_orders,
  coalesce(extract(epoch FROM r.finished_at), 0)::double precision AS finished
FROM (VALUES (1)) AS one (one) LEFT JOIN (
  SELECT differences, units_off, variance_rate, oversold_units, oversold_orders, finished_at
  FROM stockade.reconciliation
  WHERE finished_at IS NOT NULL AND sku IS NULL ORDER BY id DESC LIMIT 1
) AS r ON true

-- API keys. Those that count, and of each the secret before while it is taken as well.
-- name: live_keys
SELECT id, name, scopes, channels, rate, hash,
  CASE WHEN former_until > now() THEN former_hash END AS former_hash,
  extract(epoch FROM former_until - now())::double precision AS former_seconds
FROM stockade.api_key WHERE revoked_at IS NULL

-- name: any_key
SELECT EXISTS (SELECT FROM stockade.api_key)

-- name: all_keys
SELECT id, name, scopes, channels, rate, created_at, rotated_at, revoked_at,
  CASE WHEN former_until > now() THEN former_until END AS former_until
FROM stockade.api_key ORDER BY created_at, id

-- name: make_key
INSERT INTO stockade.api_key (id, name, scopes, channels, rate, hash)
SELECT $1, $2, $3, $4, $5, $6
WHERE (SELECT count(*) FROM stockade.api_key WHERE revoked_at IS NULL) < $7

-- name: rotate_key
UPDATE stockade.api_key SET hash = $2, rotated_at = now(),
  former_hash = CASE WHEN $3::integer > 0 THEN hash END,
  former_until = CASE WHEN $3::integer > 0 THEN now() + make_interval(secs => $3::integer) END
WHERE id = $1 AND revoked_at IS NULL

-- name: revoke_key
UPDATE stockade.api_key
SET revoked_at = coalesce(revoked_at, now()), former_hash = NULL, former_until = NULL
WHERE id = $1

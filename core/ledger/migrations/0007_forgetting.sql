-- People are forgotten and amounts stay: customer, reference and reason of reservations that ended
-- long ago. The service may not change what happened; this does that one thing for it, and cannot be
-- asked for less than a day. It walks the versions in the order in which they happened: one that is
-- the last of a reservation that has ended takes all of that reservation along; a reservation that
-- changes again is met again at its new last version.
CREATE TABLE forgotten (
  shard        smallint PRIMARY KEY CHECK (shard >= 0),
  position     bigint NOT NULL CHECK (position >= 0)  -- versions up to here were looked at
);
COMMENT ON TABLE forgotten IS 'How far people are forgotten';
INSERT INTO forgotten (shard, position) VALUES (0, 0);

CREATE FUNCTION forget(
  older_than_days integer, versions_max integer, OUT looked integer, OUT forgot integer
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
  due constant timestamptz := now() - make_interval(days => older_than_days);
  head constant text := '^((?:[^ ]+ ){7})[^ ]+ [^ ]+';  -- of a record, up to its customer and reference
  behind bigint;
  upto bigint;
  ids uuid[];
BEGIN
  IF coalesce(older_than_days < 1 OR versions_max < 1, true) THEN
    RAISE EXCEPTION 'forget: at least a day and at least one version';
  END IF;
  SELECT f.position INTO STRICT behind FROM stockade.forgotten f WHERE f.shard = 0 FOR UPDATE;
  PERFORM FROM stockade.reservation WHERE id IN (
    SELECT reservation FROM stockade.reservation_version
    WHERE position > behind ORDER BY position LIMIT versions_max
  ) ORDER BY id FOR UPDATE;  -- so that none changes from here on
  SELECT count(*), max(t.position), array_agg(t.reservation) FILTER (WHERE t.is_last)
  INTO looked, upto, ids
  FROM (
    SELECT v.position, v.reservation, r.state NOT IN ('R', 'C') AND r.version = v.version AS is_last,
      bool_and(v.time < due) OVER (ORDER BY v.position) AS is_due
    FROM (
      SELECT * FROM stockade.reservation_version
      WHERE position > behind ORDER BY position LIMIT versions_max
    ) v
    JOIN stockade.reservation r ON r.id = v.reservation
  ) t
  WHERE t.is_due;
  UPDATE stockade.reservation
  SET customer = NULL, reference = NULL, record = regexp_replace(record, head, '\1- -')
  WHERE id = ANY(ids) AND record !~ '^(?:[^ ]+ ){7}- - ';
  GET DIAGNOSTICS forgot = ROW_COUNT;
  UPDATE stockade.reservation_version SET record = regexp_replace(record, head, '\1- -')
  WHERE reservation = ANY(ids) AND record !~ '^(?:[^ ]+ ){7}- - ';
  UPDATE stockade.movement
  SET reference = NULL, reason = CASE WHEN verb = 'cancel' THEN NULL ELSE reason END
  WHERE reservation = ANY(ids) AND (reference IS NOT NULL OR verb = 'cancel' AND reason IS NOT NULL);
  UPDATE stockade.forgotten SET position = upto WHERE shard = 0 AND upto > behind;
  -- What a rebuild could not know, it named by id and reference.
  UPDATE stockade.rebuild
  SET named = ARRAY(SELECT split_part(each, ' ', 1) || ' -' FROM unnest(named) AS each)
  WHERE started_at < due AND EXISTS (SELECT FROM unnest(named) AS each WHERE each !~ ' -$');
END $$;

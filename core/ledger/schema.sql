-- The sum of the migrations, to be read. A test holds the two together.
--
-- The ledger: what happened, in the order of the store's event stream, and what is as of that.
--
-- Append-only tables are partitioned by the month of the event's time; the scribe numbers their rows
-- with one counter, `position`, in which the order of the stream is kept. Times are the store's.
-- CHECKs repeat the laws of the kernel and of the scripts, so that each is asserted on two sides.

CREATE TABLE mark (
  shard      smallint PRIMARY KEY CHECK (shard >= 0),
  epoch      bigint NOT NULL CHECK (epoch > 0),
  seq        bigint NOT NULL CHECK (seq >= 0),       -- of the last event that is here
  position   bigint NOT NULL CHECK (position >= 0),  -- of the last row that is here
  policy     bigint NOT NULL CHECK (policy > 0),     -- number of the channels' policy
  time_ms    bigint NOT NULL,                        -- of the last event
  seen_ms    bigint NOT NULL                         -- when the store was last seen at this mark
);
COMMENT ON TABLE mark IS 'How far the stream is read; one conditional update per batch';

CREATE TABLE movement (
  position     bigint NOT NULL,
  time         timestamptz NOT NULL,
  occurred_at  timestamptz,
  verb         text NOT NULL,
  sku          text NOT NULL,
  location     text NOT NULL,
  source       text NOT NULL,
  target       text NOT NULL,
  quantity     bigint NOT NULL CHECK (quantity > 0),
  version      bigint NOT NULL CHECK (version > 0),  -- of the pool, after its event
  channel      text,
  reservation  uuid,
  reference    text,
  reason       text,
  actor        text,
  PRIMARY KEY (position, time),
  CHECK (source <> target)
) PARTITION BY RANGE (time);
COMMENT ON TABLE movement IS 'Units from one account of a pool to another, or from and to outside';
CREATE INDEX ON movement (sku, location, position);
CREATE INDEX ON movement (reservation, position) WHERE reservation IS NOT NULL;
CREATE INDEX ON movement (reference, position) WHERE reference IS NOT NULL;
-- Which reservations ever held a SKU, newest first. What they hold now says their record.
CREATE INDEX ON movement (sku, reservation)
  WHERE reservation IS NOT NULL AND verb IN ('reserve', 'amend', 'import');
-- What people do to stock is rare among what customers do.
CREATE INDEX ON movement (verb, position)
  WHERE verb NOT IN ('reserve', 'amend', 'commit', 'release', 'expire', 'fulfil');

CREATE TABLE balance (
  position     bigint NOT NULL,
  time         timestamptz NOT NULL,
  sku          text NOT NULL,
  location     text NOT NULL,
  version      bigint NOT NULL CHECK (version > 0),
  row          text NOT NULL,                        -- as the store has it
  on_hand      bigint NOT NULL CHECK (on_hand >= 0),
  promised     bigint NOT NULL CHECK (promised >= 0),   -- reserved and committed
  sellable     bigint NOT NULL CHECK (sellable >= 0),   -- free, shared and safety
  deficit      bigint NOT NULL CHECK (deficit >= 0),
  was_sellable bigint NOT NULL CHECK (was_sellable >= 0),
  was_deficit  bigint NOT NULL CHECK (was_deficit >= 0),
  PRIMARY KEY (sku, location, version, time),
  CHECK (promised <= on_hand + deficit),
  CHECK (deficit = 0 OR sellable = 0)
) PARTITION BY RANGE (time);
COMMENT ON TABLE balance IS 'Every version of every pool';
CREATE INDEX ON balance (position);

CREATE TABLE reservation_version (
  position     bigint NOT NULL,
  time         timestamptz NOT NULL,
  reservation  uuid NOT NULL,
  version      integer NOT NULL CHECK (version > 0),
  verb         text NOT NULL,
  record       text NOT NULL,                        -- as the store had it
  actor        text,
  PRIMARY KEY (reservation, version, time)
) PARTITION BY RANGE (time);
COMMENT ON TABLE reservation_version IS 'Every version of every reservation';
CREATE INDEX ON reservation_version (position);

CREATE TABLE policy_version (
  position     bigint NOT NULL,
  time         timestamptz NOT NULL,
  kind         text NOT NULL CHECK (kind IN ('channel', 'location', 'mode', 'sku')),
  name         text NOT NULL,
  entry        text,                                 -- as the store has it; null: deleted
  PRIMARY KEY (position, time)
) PARTITION BY RANGE (time);
COMMENT ON TABLE policy_version IS 'Every change of a channel, a location, the mode or a SKU';
CREATE INDEX ON policy_version (kind, name, position);

CREATE TABLE audit (
  position     bigint PRIMARY KEY,
  time         timestamptz NOT NULL,
  actor        text,                                 -- the key's id, or cli: and who was logged in
  request      text,                                 -- the id that the request came with
  verb         text NOT NULL,
  target       text NOT NULL,
  before       text,                                 -- JSON, like what is after
  after        text
);
COMMENT ON TABLE audit IS 'Who changed what, and who read whose a reservation is';

CREATE TABLE pool (
  sku          text NOT NULL,
  location     text NOT NULL,
  version      bigint NOT NULL CHECK (version > 0),
  position     bigint NOT NULL,
  row          text NOT NULL,
  on_hand      bigint NOT NULL CHECK (on_hand >= 0),
  promised     bigint NOT NULL CHECK (promised >= 0),
  sellable     bigint NOT NULL CHECK (sellable >= 0),
  deficit      bigint NOT NULL CHECK (deficit >= 0),
  PRIMARY KEY (sku, location),
  CHECK (promised <= on_hand + deficit),
  CHECK (deficit = 0 OR sellable = 0)
) WITH (fillfactor = 50);
COMMENT ON TABLE pool IS 'Every pool as of the mark';
CREATE INDEX ON pool (sku, location) WHERE deficit > 0;

CREATE TABLE reservation (
  id           uuid PRIMARY KEY,
  state        "char" NOT NULL CHECK (state IN ('R', 'C', 'F', 'T', 'L', 'X', 'K')),
  version      integer NOT NULL CHECK (version > 0),
  position     bigint NOT NULL,
  channel      text NOT NULL,
  customer     text,
  reference    text,
  record       text NOT NULL
) WITH (fillfactor = 70);
COMMENT ON TABLE reservation IS 'Every reservation as of the mark';
CREATE INDEX ON reservation (reference, id) WHERE reference IS NOT NULL;
CREATE INDEX ON reservation (customer, id) WHERE customer IS NOT NULL;

CREATE TABLE policy (
  kind         text NOT NULL CHECK (kind IN ('channel', 'location', 'mode', 'sku')),
  name         text NOT NULL COLLATE "C",
  entry        text NOT NULL,
  PRIMARY KEY (kind, name)
);
COMMENT ON TABLE policy IS 'Channels, locations, the mode and SKUs as of the mark';

CREATE TABLE import (
  field        text PRIMARY KEY,
  value        text NOT NULL
);
COMMENT ON TABLE import IS 'How far each file was imported, and the last file of each name';

-- One row per script that kept keys: a line each, "field fingerprint status resource", and a mark.
CREATE TABLE idempotency_keys (
  position     bigint PRIMARY KEY,
  time_ms      bigint NOT NULL,
  long         boolean NOT NULL,                     -- of the window for what moves goods
  keys         text NOT NULL
);
COMMENT ON TABLE idempotency_keys IS 'Keys of the windows in use';
ALTER TABLE idempotency_keys ALTER COLUMN keys SET STORAGE EXTERNAL;
CREATE INDEX ON idempotency_keys USING brin (time_ms);

-- The service may add to what happened, never change it. It cannot make partitions itself; this
-- makes those of a month for it. They are attached, which waits for no reader.
CREATE FUNCTION open_month(month date) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
  first timestamptz := date_trunc('month', month::timestamp) AT TIME ZONE 'UTC';
  next  timestamptz := (date_trunc('month', month::timestamp) + interval '1 month') AT TIME ZONE 'UTC';
  parent text;
  child text;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtext('stockade.open_month'));  -- two who ask at once
  FOREACH parent IN ARRAY ARRAY['movement', 'balance', 'reservation_version', 'policy_version'] LOOP
    child := parent || to_char(month, '_YYYY_MM');
    CONTINUE WHEN to_regclass(format('stockade.%I', child)) IS NOT NULL;
    EXECUTE format('CREATE TABLE stockade.%I (LIKE stockade.%I INCLUDING ALL)', child, parent);
    EXECUTE format('ALTER TABLE stockade.%I ATTACH PARTITION stockade.%I FOR VALUES FROM (%L) TO (%L)',
      parent, child, first, next);
  END LOOP;
END $$;

CREATE TABLE rebuild (
  epoch         bigint PRIMARY KEY CHECK (epoch > 0),      -- that the store has since
  started_at    timestamptz NOT NULL,
  lost_epoch    bigint NOT NULL,                           -- the last event that is known is this
  lost_seq      bigint NOT NULL,
  lost_position bigint NOT NULL,                           -- and its last row that
  lost_time_ms  bigint NOT NULL,                           -- and its time that
  lost_seen_ms  bigint NOT NULL,                           -- when there was nothing behind it
  carried       bigint NOT NULL CHECK (carried >= 0),      -- events that the store still had
  whole         boolean NOT NULL,                          -- all of them: nothing is lost
  reason        text NOT NULL,                             -- why no more were carried; or ''
  named         text[] NOT NULL                            -- "id reference" of what is known of more
);
COMMENT ON TABLE rebuild IS 'Every rebuild of the store: what it began with, and what was lost';

CREATE TABLE rebuild_end (
  epoch        bigint PRIMARY KEY REFERENCES rebuild,
  finished_at  timestamptz NOT NULL,
  counts       jsonb NOT NULL,                             -- rows by kind
  moved        bigint NOT NULL CHECK (moved >= 0),         -- deadlines
  outage_ms    bigint NOT NULL CHECK (outage_ms >= 0)      -- by this
);
COMMENT ON TABLE rebuild_end IS 'Rebuilds that came to their end';

CREATE TABLE reconciliation (
  id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  night            date UNIQUE,                      -- that it was due in; null: a command's
  sku              text,                             -- null: all of them
  whole            boolean NOT NULL,                 -- every movement was summed again
  started_at       timestamptz NOT NULL DEFAULT now(),
  finished_at      timestamptz,                      -- null: it goes on, or was broken off
  position         bigint NOT NULL DEFAULT 0,        -- of the ledger when it was summed
  pools            bigint NOT NULL DEFAULT 0,
  reservations     bigint NOT NULL DEFAULT 0,
  counts           bigint NOT NULL DEFAULT 0,
  differences      bigint NOT NULL DEFAULT 0,
  on_hand          bigint NOT NULL DEFAULT 0,        -- units in the pools that were looked at
  units_off        bigint NOT NULL DEFAULT 0,        -- of those
  counted_on_hand  bigint NOT NULL DEFAULT 0,        -- units in the pools that were counted
  counted_off      bigint NOT NULL DEFAULT 0,        -- of those
  variance_rate    double precision NOT NULL DEFAULT 0,
  oversold_units   bigint NOT NULL DEFAULT 0,
  oversold_orders  bigint NOT NULL DEFAULT 0,
  status           text NOT NULL DEFAULT 'normal' CHECK (status IN ('normal', 'watch', 'alarm')),
  reasons          text[] NOT NULL DEFAULT '{}'
);
COMMENT ON TABLE reconciliation IS 'Every reconciliation and what it came to';

CREATE TABLE reconciliation_case (
  id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  kind         text NOT NULL CHECK (kind IN
                 ('row', 'lag', 'fold', 'held', 'record', 'customers', 'live', 'count')),
  subject      text NOT NULL,                        -- sku@location, a SKU, a reservation's id, or
                                                     -- what there is one of
  sku          text,
  location     text,
  cause        text NOT NULL,
  expected     text NOT NULL,
  found        text NOT NULL,
  units        bigint NOT NULL CHECK (units >= 0),   -- that lie in the wrong account, or nowhere
  movements    bigint[] NOT NULL,                    -- positions to look at
  state        text NOT NULL DEFAULT 'open'
               CHECK (state IN ('open', 'explained', 'repaired', 'vanished')),
  person       text,
  note         text,
  opened_at    timestamptz NOT NULL DEFAULT now(),
  seen_at      timestamptz NOT NULL DEFAULT now(),
  closed_at    timestamptz CHECK ((closed_at IS NULL) = (state IN ('open', 'explained'))),
  seen_in      bigint NOT NULL REFERENCES reconciliation
);
COMMENT ON TABLE reconciliation_case IS 'One difference, from when it was first found until it is gone';
CREATE UNIQUE INDEX ON reconciliation_case (kind, subject) WHERE closed_at IS NULL;
CREATE INDEX ON reconciliation_case (seen_in, id);

-- The last version of each pool at which its movements added up to its accounts.
CREATE TABLE verified (
  sku          text NOT NULL,
  location     text NOT NULL,
  version      bigint NOT NULL CHECK (version > 0),
  position     bigint NOT NULL CHECK (position > 0),
  PRIMARY KEY (sku, location)
) WITH (fillfactor = 80);
COMMENT ON TABLE verified IS 'Up to where the ledger was held against its own movements';

-- Changes that no event explains and that somebody has accepted: the scribe writes them as they are.
CREATE TABLE drift (
  epoch        bigint NOT NULL,
  seq          bigint NOT NULL,                      -- of the event that met the change
  sku          text NOT NULL,
  location     text NOT NULL,
  reason       text NOT NULL,
  person       text NOT NULL,
  accepted_at  timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (epoch, seq, sku, location)
);
COMMENT ON TABLE drift IS 'Changes of pools by something other than Stockade, accepted by somebody';

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

-- API keys: who may ask, and for what. Of a secret only its hash is here.
CREATE TABLE api_key (
  id            text PRIMARY KEY CHECK (id ~ '^stockade_[a-z0-9]{16}$'),
  name          text NOT NULL,
  scopes        text[] NOT NULL CHECK (cardinality(scopes) > 0),
  channels      text[] CHECK (cardinality(channels) > 0),  -- null: all
  rate          integer CHECK (rate > 0),            -- requests a second; null: any
  hash          bytea NOT NULL CHECK (length(hash) = 32),  -- SHA-256 of the secret
  former_hash   bytea CHECK (length(former_hash) = 32),    -- of the one before
  former_until  timestamptz,                         -- until when that one is taken as well
  created_at    timestamptz NOT NULL DEFAULT now(),
  rotated_at    timestamptz,
  revoked_at    timestamptz,
  CHECK ((former_hash IS NULL) = (former_until IS NULL))
);
COMMENT ON TABLE api_key IS 'Who may ask, and for what; a revoked key stays, so that its id is never another''s';

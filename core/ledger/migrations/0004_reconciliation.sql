-- What reconciling found, how far the ledger was held against itself, and what was accepted.

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
  kind         text NOT NULL CHECK (kind IN ('row', 'lag', 'fold', 'held', 'record', 'count')),
  subject      text NOT NULL,                        -- sku@location, or a reservation's id
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

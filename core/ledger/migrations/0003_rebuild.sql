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

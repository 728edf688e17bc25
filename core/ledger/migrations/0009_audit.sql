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

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

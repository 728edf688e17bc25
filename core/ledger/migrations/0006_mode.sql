-- The mode that the shard sells in is policy as well.
ALTER TABLE policy_version DROP CONSTRAINT policy_version_kind_check;
ALTER TABLE policy_version ADD CONSTRAINT policy_version_kind_check
  CHECK (kind IN ('channel', 'location', 'mode', 'sku'));
COMMENT ON TABLE policy_version IS 'Every change of a channel, a location, the mode or a SKU';
ALTER TABLE policy DROP CONSTRAINT policy_kind_check;
ALTER TABLE policy ADD CONSTRAINT policy_kind_check
  CHECK (kind IN ('channel', 'location', 'mode', 'sku'));
COMMENT ON TABLE policy IS 'Channels, locations, the mode and SKUs as of the mark';

-- A month opens beside whoever reads, however long that takes (a backup, a reconciliation): a table
-- that is made as a partition waits for all readers of the others, and everybody else for it; one
-- that is attached does not.
CREATE OR REPLACE FUNCTION open_month(month date) RETURNS void
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

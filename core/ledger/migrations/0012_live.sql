-- Which reservations are counted as live ones of their customers is reconciled as well.
ALTER TABLE reconciliation_case DROP CONSTRAINT reconciliation_case_kind_check;
ALTER TABLE reconciliation_case ADD CONSTRAINT reconciliation_case_kind_check
  CHECK (kind IN ('row', 'lag', 'fold', 'held', 'record', 'customers', 'live', 'count'));

-- What customers have of limited SKUs is reconciled as well. A case of it names the SKU.
ALTER TABLE reconciliation_case DROP CONSTRAINT reconciliation_case_kind_check;
ALTER TABLE reconciliation_case ADD CONSTRAINT reconciliation_case_kind_check
  CHECK (kind IN ('row', 'lag', 'fold', 'held', 'record', 'customers', 'count'));

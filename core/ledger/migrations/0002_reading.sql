-- Readers go by position, by SKU and reservation, and by the verbs of stock.
--
-- BRIN summaries lag behind on a table that only grows, and a reader of the newest rows would scan
-- the part that has none; at the right end a B-tree costs next to nothing.
DROP INDEX balance_position_idx;
DROP INDEX reservation_version_position_idx;
CREATE INDEX ON balance (position);
CREATE INDEX ON reservation_version (position);

-- Which reservations ever held a SKU, newest first. What they hold now says their record.
CREATE INDEX ON movement (sku, reservation)
  WHERE reservation IS NOT NULL AND verb IN ('reserve', 'amend', 'import');

-- What people do to stock is rare among what customers do.
CREATE INDEX ON movement (verb, position)
  WHERE verb NOT IN ('reserve', 'amend', 'commit', 'release', 'expire', 'fulfil');

-- Movements have had a place for it from the start.
ALTER TABLE reservation_version ADD COLUMN actor text;

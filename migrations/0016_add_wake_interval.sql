-- What a device that sleeps declares in its hello: seconds from one wake to the next. Null: it does not sleep.
ALTER TABLE device ADD COLUMN wake_interval_s integer;

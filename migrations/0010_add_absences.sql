-- How often a device had been away by absent_at, each time counting half as much after half a week: the halt rule
-- compares those that come and go with their like, also after a restart of the server.
ALTER TABLE device
    ADD COLUMN absences float8 NOT NULL DEFAULT 0,
    ADD COLUMN absent_at timestamptz;

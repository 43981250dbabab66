-- Whose word the open wave's gate waits for, and the wave that a person has let through in the present run.
ALTER TABLE campaign
    ADD COLUMN awaits    text NOT NULL DEFAULT '',
    ADD COLUMN advanced  integer,
    ADD CONSTRAINT campaign_awaits_is_known CHECK (awaits IN ('', 'advance'));

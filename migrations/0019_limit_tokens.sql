-- Where a token lets its holder in, who has made and who has ended it, and when it was last used.
-- regions, cohorts: NULL is all of them.

ALTER TABLE token
    ADD COLUMN regions      text[],
    ADD COLUMN cohorts      text[],
    ADD COLUMN created_by   text,
    ADD COLUMN revoked_by   text,
    ADD COLUMN last_used_at timestamptz,
    ADD CONSTRAINT token_regions_are_some CHECK (cardinality(regions) > 0),
    ADD CONSTRAINT token_cohorts_are_some CHECK (cardinality(cohorts) > 0);

-- What the halt rule has seen of a campaign so far: a restart goes on with the same test. `roster` has the devices'
-- ids in the order of the rule's indices (zlib, one id a line).
CREATE TABLE halt_state (
    campaign_id  uuid        NOT NULL REFERENCES campaign,
    run          integer     NOT NULL,
    saved_at     timestamptz NOT NULL,
    roster       bytea       NOT NULL,
    body         bytea       NOT NULL,
    PRIMARY KEY (campaign_id, run)
);
CREATE TRIGGER halt_state_is_fenced BEFORE INSERT OR UPDATE OR DELETE ON halt_state
    FOR EACH STATEMENT EXECUTE FUNCTION check_lease();

-- The first rule counted its looks.
ALTER TABLE campaign DROP COLUMN looks, DROP COLUMN seen_silent;

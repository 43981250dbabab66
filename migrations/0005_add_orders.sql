-- What people may order of campaigns beyond start and stop: approvals, freezes, a resume after a halt, a rollback, and
-- devices that are held until their attempts count again.

-- A resume after a halt opens a new run: run_at is when the present one began. What was decided stays with its run.
ALTER TABLE campaign
    ADD COLUMN membership     text NOT NULL DEFAULT 'dynamic',
    ADD COLUMN emergency      text NOT NULL DEFAULT '',
    ADD COLUMN run_at         timestamptz,
    ADD COLUMN rolling_since  timestamptz,
    ADD CONSTRAINT campaign_membership_is_known CHECK (membership IN ('dynamic', 'snapshot'));
UPDATE campaign SET run_at = started_at;
ALTER TABLE decision ADD COLUMN run integer NOT NULL DEFAULT 1;

-- Who has approved which run of a campaign; each person counts once.
CREATE TABLE approval (
    campaign_id  uuid        NOT NULL REFERENCES campaign,
    run          integer     NOT NULL,
    who          text        NOT NULL,
    at           timestamptz NOT NULL,
    reason       text        NOT NULL,
    PRIMARY KEY (campaign_id, run, who)
);

-- No campaign goes on in a region (null: in all of them) between two moments of that zone's wall clock.
CREATE TABLE campaign_freeze (
    id          uuid        PRIMARY KEY,
    region      text,
    zone        text        NOT NULL,
    starts      timestamp   NOT NULL,
    ends        timestamp   NOT NULL,
    reason      text        NOT NULL,
    created_by  text        NOT NULL,
    created_at  timestamptz NOT NULL,
    CONSTRAINT freeze_region_is_safe CHECK (region ~ '^[a-z0-9][a-z0-9-]{0,31}$'),
    CONSTRAINT freeze_has_an_end CHECK (starts < ends)
);

-- A hold without held_until lasts until somebody ends it. released_at: failures up to then hold a device no more.
ALTER TABLE device
    ADD COLUMN held_until   timestamptz,
    ADD COLUMN held_reason  text NOT NULL DEFAULT '',
    ADD COLUMN released_at  timestamptz;
CREATE INDEX device_held_until ON device (held_until) WHERE held_until IS NOT NULL;

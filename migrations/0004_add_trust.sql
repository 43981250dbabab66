-- Roots and status documents as they were accepted, what became of every document that was shown to us, releases that
-- somebody should take back, and when a campaign was halted.

-- The pinned root and those that were walked from it. Bodies are verified again at each start.
CREATE TABLE trust_root (
    version      bigint      PRIMARY KEY,
    body         bytea       NOT NULL,
    accepted_at  timestamptz NOT NULL,
    accepted_by  text        NOT NULL
);

CREATE TABLE trust_status (
    epoch        bigint      NOT NULL,
    version      bigint      NOT NULL,
    body         bytea       NOT NULL,
    accepted_at  timestamptz NOT NULL,
    accepted_by  text        NOT NULL,
    PRIMARY KEY (epoch, version)
);

-- Accepted or refused: an attack leaves a row.
CREATE TABLE trust_event (
    id        bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at        timestamptz NOT NULL,
    actor     text        NOT NULL,
    document  text        NOT NULL,
    accepted  boolean     NOT NULL,
    sentence  text        NOT NULL,
    CONSTRAINT trust_event_document_is_known CHECK (document IN ('root', 'status'))
);

-- Each halt proposes to take the release back; whoever holds the status key signs that, or somebody declines.
CREATE TABLE release_revocation (
    id               uuid        PRIMARY KEY,
    manifest_digest  bytea       NOT NULL,
    campaign_id      uuid        NOT NULL REFERENCES campaign,
    state            text        NOT NULL DEFAULT 'proposed',
    sentence         text        NOT NULL,
    proposed_at      timestamptz NOT NULL,
    reminded_at      timestamptz NOT NULL,
    decided_at       timestamptz,
    decided_by       text,
    reason           text,
    CONSTRAINT release_revocation_state_is_known CHECK (state IN ('proposed', 'published', 'declined')),
    CONSTRAINT release_revocation_is_decided CHECK ((state = 'proposed') = (decided_at IS NULL))
);
CREATE UNIQUE INDEX release_revocation_one_proposed ON release_revocation (manifest_digest) WHERE state = 'proposed';

-- Stays when the campaign is cancelled or rolled back later: directives name halted releases for 180 days.
ALTER TABLE campaign ADD COLUMN halted_at timestamptz;
UPDATE campaign SET halted_at = (SELECT max(at) FROM decision WHERE campaign_id = campaign.id AND kind = 'halt');
CREATE INDEX campaign_halted ON campaign (cohort, halted_at) WHERE halted_at IS NOT NULL;

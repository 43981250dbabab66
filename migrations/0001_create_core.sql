-- Devices, bundles, campaigns, executions, directives, tokens.
-- Digests are 32-byte SHA-256. Levels are 0 .. 2^32, so bigint. States carry named CHECKs and are text.

CREATE TABLE device (
    id                text        PRIMARY KEY,
    region            text        NOT NULL,
    cohort            text        NOT NULL,
    member_since      timestamptz NOT NULL,
    created_at        timestamptz NOT NULL,
    held              boolean     NOT NULL DEFAULT false,
    vendor            text,
    hardware          text,
    agent_version     text,
    booted_slot       text,
    running_version   text,
    running_digest    bytea,
    running_sequence  bigint,
    labels            jsonb       NOT NULL DEFAULT '{}',
    session_nonce     bytea,
    last_seen         timestamptz,
    CONSTRAINT device_id_is_safe CHECK (id ~ '^[a-z0-9][a-z0-9_-]{2,63}$'),
    CONSTRAINT device_region_is_safe CHECK (region ~ '^[a-z0-9][a-z0-9-]{0,31}$'),
    CONSTRAINT device_cohort_is_safe CHECK (cohort ~ '^[a-z0-9][a-z0-9-]{0,31}$')
);
CREATE INDEX device_by_audience ON device (cohort, region, id);

CREATE TABLE bundle (
    id               uuid        PRIMARY KEY,
    manifest_digest  bytea       NOT NULL,
    envelope_digest  bytea       NOT NULL,
    envelope_bytes   integer     NOT NULL,
    sequence_number  bigint      NOT NULL,
    version          text        NOT NULL,
    vendor_id        bytea       NOT NULL,
    class_ids        bytea[]     NOT NULL,
    components       jsonb       NOT NULL,
    size_bytes       bigint      NOT NULL,
    signers          bytea[]     NOT NULL,
    created_by       text        NOT NULL,
    created_at       timestamptz NOT NULL,
    CONSTRAINT bundle_is_unique UNIQUE (manifest_digest)
);

CREATE TABLE bundle_blob (
    bundle_id   uuid    NOT NULL REFERENCES bundle,
    digest      bytea   NOT NULL,
    size_bytes  integer NOT NULL,
    PRIMARY KEY (bundle_id, digest)
);

CREATE TABLE campaign (
    id              uuid        PRIMARY KEY,
    name            text        NOT NULL,
    cohort          text        NOT NULL,
    bundle_id       uuid        NOT NULL REFERENCES bundle,
    state           text        NOT NULL,
    causes          text[]      NOT NULL DEFAULT '{}',
    run             integer     NOT NULL DEFAULT 1,
    plan            jsonb       NOT NULL,
    policy          jsonb       NOT NULL,
    reason          text        NOT NULL,
    created_by      text        NOT NULL,
    created_at      timestamptz NOT NULL,
    started_at      timestamptz,
    watching_since  timestamptz,
    ended_at        timestamptz,
    wave            integer,
    looks           integer     NOT NULL DEFAULT 0,
    seen_silent     integer     NOT NULL DEFAULT 0,
    blobs_ready     boolean     NOT NULL DEFAULT false,
    sentence        text        NOT NULL DEFAULT '',
    revision        bigint      NOT NULL DEFAULT 1,
    CONSTRAINT campaign_state_is_known CHECK (state IN ('draft', 'awaiting_approval', 'scheduled', 'running', 'paused',
        'watching', 'finished', 'halted', 'rolling_back', 'rolled_back', 'cancelled'))
);
CREATE INDEX campaign_by_age ON campaign (created_at DESC, id);

-- The level of one region of a campaign: the whole line (l0 at t0 to l1 at t1, Unix seconds), of which directives
-- show at most the next two minutes. A pause flattens the line; target stays, for the resume.
CREATE TABLE campaign_region (
    campaign_id  uuid    NOT NULL REFERENCES campaign,
    region       text    NOT NULL,
    position     integer NOT NULL,
    cohort       text    NOT NULL,
    active       boolean NOT NULL DEFAULT false,
    opened_at    timestamptz,
    t0           bigint  NOT NULL DEFAULT 0,
    l0           bigint  NOT NULL DEFAULT 0,
    t1           bigint  NOT NULL DEFAULT 0,
    l1           bigint  NOT NULL DEFAULT 0,
    target       bigint  NOT NULL DEFAULT 0,
    PRIMARY KEY (campaign_id, region),
    CONSTRAINT campaign_region_line CHECK (t0 <= t1 AND 0 <= l0 AND l0 <= l1 AND l1 <= 4294967296 AND target <= 4294967296)
);
CREATE UNIQUE INDEX campaign_region_one_active ON campaign_region (cohort, region) WHERE active;

-- The hot table: no foreign keys (ingest reads the campaign in the same transaction and takes the device from its own
-- records; a check for each report would lock one campaign's row for everybody), and room in each page for updates
-- that touch no index.
CREATE TABLE execution (
    campaign_id   uuid        NOT NULL,
    device_id     text        NOT NULL,
    region        text        NOT NULL,
    state         text        NOT NULL,
    attempt       integer     NOT NULL,
    sequence      bigint      NOT NULL,
    reason        integer     NOT NULL,
    detail        text        NOT NULL,
    slot          text        NOT NULL,
    done_bytes    bigint      NOT NULL,
    total_bytes   bigint      NOT NULL,
    started_at    timestamptz NOT NULL,
    rebooting_at  timestamptz,
    judged_at     timestamptz,
    updated_at    timestamptz NOT NULL,
    PRIMARY KEY (campaign_id, device_id),
    CONSTRAINT execution_state_is_known CHECK (state IN ('waiting', 'due', 'downloading', 'installing', 'rebooting',
        'trial', 'confirmed', 'failed', 'rejected', 'cancelled', 'rolled_back', 'silent', 'skipped'))
) WITH (fillfactor = 70);
CREATE INDEX execution_unjudged ON execution (campaign_id, rebooting_at)
    WHERE rebooting_at IS NOT NULL AND judged_at IS NULL;

CREATE TABLE execution_event (
    id           bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    campaign_id  uuid        NOT NULL,
    device_id    text        NOT NULL,
    attempt      integer     NOT NULL,
    sequence     bigint      NOT NULL,
    state        text        NOT NULL,
    reason       integer     NOT NULL,
    at           timestamptz NOT NULL
);

-- The current directive of each audience. A counter is signed once and its bytes are kept; published_counter follows
-- when the broker has acknowledged them, so the row is its own outbox.
CREATE TABLE directive (
    audience           text        PRIMARY KEY,
    region             text        NOT NULL,
    cohort             text,
    device_id          text,
    epoch              bigint      NOT NULL,
    counter            bigint      NOT NULL,
    issued_at          timestamptz NOT NULL,
    expires_at         timestamptz NOT NULL,
    action             smallint    NOT NULL,
    campaign_id        uuid        REFERENCES campaign,
    ramp_end           bigint      NOT NULL DEFAULT 0,
    body               bytea       NOT NULL,
    published_counter  bigint      NOT NULL DEFAULT 0,
    CONSTRAINT directive_has_one_audience CHECK ((cohort IS NULL) <> (device_id IS NULL))
);
CREATE INDEX directive_unpublished ON directive (audience) WHERE published_counter < counter;

CREATE TABLE decision (
    id           bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    campaign_id  uuid        NOT NULL REFERENCES campaign,
    at           timestamptz NOT NULL,
    kind         text        NOT NULL,
    actor        text        NOT NULL,
    sentence     text        NOT NULL,
    evidence     jsonb       NOT NULL
);
CREATE INDEX decision_of_campaign ON decision (campaign_id, id);

CREATE TABLE token (
    id          text        PRIMARY KEY,
    name        text        NOT NULL,
    role        text        NOT NULL,
    secret      bytea       NOT NULL,
    created_at  timestamptz NOT NULL,
    expires_at  timestamptz,
    revoked_at  timestamptz,
    CONSTRAINT token_role_is_known CHECK (role IN ('viewer', 'operator', 'approver', 'releaser', 'admin'))
);

-- Where events are delivered to. cursor: all events up to this number are dealt with. A secret has to be kept as it is:
-- what is delivered is signed with it. old_secret signs too until then, while receivers take up the new one.
CREATE TABLE webhook (
    id                uuid        PRIMARY KEY,
    name              text        NOT NULL,
    url               text        NOT NULL,
    format            text        NOT NULL,
    types             text[]      NOT NULL,
    campaign_id       uuid,
    routing_key       text        NOT NULL DEFAULT '',
    secret            bytea       NOT NULL,
    old_secret        bytea,
    old_secret_until  timestamptz,
    cursor            bigint      NOT NULL,
    is_enabled        boolean     NOT NULL DEFAULT true,
    why_not           text        NOT NULL DEFAULT '',
    attempts          integer     NOT NULL DEFAULT 0,
    failing_since     timestamptz,
    next_attempt      timestamptz,
    created_by        text        NOT NULL,
    created_at        timestamptz NOT NULL,
    CONSTRAINT webhook_format_is_known CHECK (format IN ('standard', 'pagerduty', 'ticket')),
    CONSTRAINT webhook_old_secret_ends CHECK ((old_secret IS NULL) = (old_secret_until IS NULL))
);

-- Each try. status: of the answer, null where there was none.
CREATE TABLE webhook_delivery (
    id            bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    webhook_id    uuid        NOT NULL REFERENCES webhook ON DELETE CASCADE,
    event_seq     bigint      NOT NULL,
    event_id      uuid        NOT NULL,
    type          text        NOT NULL,
    at            timestamptz NOT NULL,
    attempt       integer     NOT NULL,
    outcome       text        NOT NULL,
    status        integer,
    why           text        NOT NULL,
    milliseconds  integer     NOT NULL,
    CONSTRAINT webhook_delivery_outcome_is_known CHECK (outcome IN ('delivered', 'failed', 'given_up'))
);
CREATE INDEX webhook_delivery_of_webhook ON webhook_delivery (webhook_id, id);

-- What tickets were written of: one for each campaign and topic.
CREATE TABLE webhook_ticket (
    webhook_id  uuid NOT NULL REFERENCES webhook ON DELETE CASCADE,
    key         text NOT NULL,
    topic       text NOT NULL,
    PRIMARY KEY (webhook_id, key, topic)
);

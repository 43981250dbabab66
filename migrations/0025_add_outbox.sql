-- What others should hear of, in the order of the commits: whoever adds an event takes outbox_head until its transaction
-- ends, and no number is left out. data is json, so that an event is told twice in the same words.
CREATE TABLE outbox (
    seq          bigint      PRIMARY KEY,
    id           uuid        NOT NULL,
    at           timestamptz NOT NULL,
    type         text        NOT NULL,
    subject      text        NOT NULL,
    campaign_id  uuid,
    regions      text[]      NOT NULL,
    cohort       text,
    data         json        NOT NULL
);
CREATE INDEX outbox_by_time ON outbox (at, seq);

CREATE TABLE outbox_head (
    is_only  boolean PRIMARY KEY DEFAULT true,
    seq      bigint  NOT NULL,
    CONSTRAINT outbox_head_is_one CHECK (is_only)
);
INSERT INTO outbox_head (seq) VALUES (0);

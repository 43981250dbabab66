-- What was answered to a request that named itself (Idempotency-Key), for a day. The row is written with the change that
-- the request makes, so that either both are there or neither; the answer follows. No answer: it is not known, or it held
-- a secret.
CREATE TABLE request_key (
    caller       text        NOT NULL,
    key          text        NOT NULL,
    fingerprint  bytea       NOT NULL,
    at           timestamptz NOT NULL,
    status       integer,
    answer       text,
    tag          text,
    PRIMARY KEY (caller, key),
    CONSTRAINT request_key_fingerprint_is_sha256 CHECK (octet_length(fingerprint) = 32)
);
CREATE INDEX request_key_by_time ON request_key (at);

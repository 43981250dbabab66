-- Who has changed what, in an order that shows when a row was edited, deleted, moved or cut off: each row has a digest
-- of itself and of the row before it (server/domain/audit.py). before and after are json, not jsonb: their bytes count.
CREATE TABLE audit (
    seq          bigint      PRIMARY KEY,
    at           timestamptz NOT NULL,
    who          text        NOT NULL,
    token        text        NOT NULL,
    what         text        NOT NULL,
    object       text        NOT NULL,
    before       json,
    after        json,
    reason       text        NOT NULL,
    request_id   text        NOT NULL,
    decision_id  bigint,
    evidence     bytea,
    previous     bytea       NOT NULL,
    digest       bytea       NOT NULL,
    CONSTRAINT audit_counts_from_one CHECK (seq > 0),
    CONSTRAINT audit_digests_are_sha256 CHECK (octet_length(previous) = 32 AND octet_length(digest) = 32),
    CONSTRAINT audit_evidence_is_of_a_decision CHECK ((decision_id IS NULL) = (evidence IS NULL))
);
CREATE INDEX audit_by_object ON audit (object, seq);
CREATE INDEX audit_by_who ON audit (who, seq);
CREATE INDEX audit_by_what ON audit (what, seq);
CREATE INDEX audit_by_time ON audit (at, seq);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the table % is only ever added to', TG_TABLE_NAME USING ERRCODE = 'TG002';
END
$$;
CREATE TRIGGER audit_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- The row that was added last. Whoever adds one takes this row until the transaction ends, so that the order of the
-- numbers is that of the commits, and none is left out.
CREATE TABLE audit_head (
    is_only  boolean PRIMARY KEY DEFAULT true,
    seq      bigint  NOT NULL,
    digest   bytea   NOT NULL,
    CONSTRAINT audit_head_is_one CHECK (is_only)
);
INSERT INTO audit_head (seq, digest) VALUES (0, decode(repeat('00', 32), 'hex'));

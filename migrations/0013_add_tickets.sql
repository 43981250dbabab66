-- What devices fetch over HTTP, and what lets them in.

-- Tickets are told from forgeries by this, so that none is stored; a fleet is named by its root.
CREATE TABLE ticket_secret (
    fleet       bytea       PRIMARY KEY,
    secret      bytea       NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT ticket_secret_is_long CHECK (octet_length(secret) = 32)
);

-- Which bundles have a blob.
CREATE INDEX bundle_blob_by_digest ON bundle_blob (digest);

-- Policies that people keep under a name. A version is never changed: a campaign has a copy of the one that it was drawn
-- up by, and policy_from says which that was (name@version, empty where it brought its own).
CREATE TABLE policy (
    name        text        NOT NULL,
    version     integer     NOT NULL,
    document    jsonb       NOT NULL,
    reason      text        NOT NULL,
    created_by  text        NOT NULL,
    created_at  timestamptz NOT NULL,
    PRIMARY KEY (name, version),
    CONSTRAINT policy_counts_from_one CHECK (version > 0)
);
ALTER TABLE campaign ADD COLUMN policy_from text NOT NULL DEFAULT '';

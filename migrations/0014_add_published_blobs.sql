-- Which blobs each broker holds, and should: to read that back from a broker would mean to fetch all of them.

-- wanted: to be published. published: the broker has acknowledged it. spare: it is there, and no campaign needs it.
-- withdrawing: to be overwritten by a tombstone and cleared. withdrawn: it was, and is again after each restart of the
-- broker, which may bring it back. at: since when; of what is withdrawn, also again: since when it is not wanted.
CREATE TABLE published_blob (
    broker      text        NOT NULL,
    digest      bytea       NOT NULL,
    size_bytes  integer     NOT NULL,
    state       text        NOT NULL,
    at          timestamptz NOT NULL,
    PRIMARY KEY (broker, digest),
    CONSTRAINT published_blob_state_is_known CHECK (state IN ('wanted', 'published', 'spare', 'withdrawing',
        'withdrawn'))
);
CREATE INDEX published_blob_by_state ON published_blob (broker, state, at, digest);

CREATE TRIGGER published_blob_is_fenced BEFORE INSERT OR UPDATE OR DELETE ON published_blob
    FOR EACH STATEMENT EXECUTE FUNCTION check_lease();

-- What devices may fetch for a bundle. They cannot do without what is essential. A digest may be there twice.
CREATE VIEW bundle_need AS SELECT bundle_id, digest, size_bytes, true AS is_essential FROM bundle_blob;

-- How devices get a campaign's blobs first; null as long as that is not decided.
ALTER TABLE campaign
    ADD COLUMN transport text,
    ADD CONSTRAINT campaign_transport_is_known CHECK (transport IN ('mqtt', 'http'));

-- What was published before is at the broker: needed by campaigns, or left there by those that have ended.
UPDATE campaign SET transport = 'mqtt' WHERE state IN ('running', 'paused', 'watching') AND blobs_ready;
INSERT INTO published_blob (broker, digest, size_bytes, state, at)
SELECT 'default', digest, max(size_bytes),
       CASE WHEN bool_or(state IN ('running', 'paused', 'watching') AND blobs_ready) THEN 'published'
            WHEN bool_or(state IN ('running', 'paused', 'watching')) THEN 'wanted'
            ELSE 'spare' END, now()
  FROM campaign JOIN bundle_blob USING (bundle_id)
 WHERE started_at IS NOT NULL
 GROUP BY digest;

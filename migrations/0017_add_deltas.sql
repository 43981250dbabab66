-- Deltas: what makes one image from another, for devices that run the other one.

-- Made once for a pair of images and a codec, and kept for all campaigns that want it. useless: it would save too
-- little, or could not be made; why says so, and it is not tried again. otherwise_bytes: what a device fetches without.
CREATE TABLE delta (
    id               bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source_digest    bytea       NOT NULL,
    target_digest    bytea       NOT NULL,
    codec            text        NOT NULL,
    state            text        NOT NULL,
    why              text        NOT NULL DEFAULT '',
    otherwise_bytes  bigint      NOT NULL DEFAULT 0,
    wire_bytes       bigint,
    index_digest     bytea,
    index_size       integer,
    chunk_count      integer,
    wanted_at        timestamptz NOT NULL,
    CONSTRAINT delta_is_unique UNIQUE (source_digest, target_digest, codec),
    CONSTRAINT delta_state_is_known CHECK (state IN ('made', 'useless')),
    CONSTRAINT delta_is_somewhere CHECK (state <> 'made' OR (wire_bytes IS NOT NULL AND index_digest IS NOT NULL
        AND index_size IS NOT NULL AND chunk_count IS NOT NULL))
);

CREATE TABLE delta_blob (
    delta_id    bigint  NOT NULL REFERENCES delta ON DELETE CASCADE,
    digest      bytea   NOT NULL,
    size_bytes  integer NOT NULL,
    PRIMARY KEY (delta_id, digest)
);
CREATE INDEX delta_blob_by_digest ON delta_blob (digest);

-- What a campaign's devices ran when it was asked: so many of them may run the source. component: its number in the
-- manifest of the campaign's bundle, from 0.
CREATE TABLE campaign_delta (
    campaign_id     uuid     NOT NULL REFERENCES campaign,
    component       smallint NOT NULL,
    component_name  text     NOT NULL,
    source_bundle   uuid     NOT NULL REFERENCES bundle,
    source_digest   bytea    NOT NULL,
    target_digest   bytea    NOT NULL,
    devices         integer  NOT NULL,
    PRIMARY KEY (campaign_id, component, source_digest, target_digest)
);
CREATE INDEX campaign_delta_by_images ON campaign_delta (source_digest, target_digest);

CREATE TRIGGER delta_is_fenced BEFORE INSERT OR UPDATE OR DELETE ON delta
    FOR EACH STATEMENT EXECUTE FUNCTION check_lease();
CREATE TRIGGER campaign_delta_is_fenced BEFORE INSERT OR UPDATE OR DELETE ON campaign_delta
    FOR EACH STATEMENT EXECUTE FUNCTION check_lease();

CREATE OR REPLACE VIEW bundle_need AS
SELECT bundle_id, digest, size_bytes, true AS is_essential FROM bundle_blob
 UNION ALL
SELECT campaign.bundle_id, delta_blob.digest, delta_blob.size_bytes, false
  FROM campaign_delta
  JOIN campaign ON campaign.id = campaign_delta.campaign_id
  JOIN delta USING (source_digest, target_digest)
  JOIN delta_blob ON delta_blob.delta_id = delta.id;

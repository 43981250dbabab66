-- What lists of devices are filtered by: versions in their order, labels that people give, and the day a device was
-- last heard from.

-- Four numbers, the stage (a release is 0, its candidates are below it) and the stage's number: 1.2 is 1.2.0, and
-- 1.2.0-rc.1 comes before it. Null where the text is no version of ours. The code has the same (domain/filter/values).
CREATE FUNCTION version_order(version text) RETURNS bigint[] LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN version ~ '^(0|[1-9][0-9]{0,8})(\.(0|[1-9][0-9]{0,8})){0,3}(-(alpha|beta|rc)(\.(0|[1-9][0-9]{0,8}))?)?$'
    THEN ARRAY[
        split_part(split_part(version, '-', 1), '.', 1)::bigint,
        coalesce(nullif(split_part(split_part(version, '-', 1), '.', 2), ''), '0')::bigint,
        coalesce(nullif(split_part(split_part(version, '-', 1), '.', 3), ''), '0')::bigint,
        coalesce(nullif(split_part(split_part(version, '-', 1), '.', 4), ''), '0')::bigint,
        CASE split_part(split_part(version, '-', 2), '.', 1)
            WHEN 'alpha' THEN -3 WHEN 'beta' THEN -2 WHEN 'rc' THEN -1 ELSE 0 END,
        coalesce(nullif(split_part(split_part(version, '-', 2), '.', 2), ''), '0')::bigint
    ] END
$$;

-- labels are what a device says of itself, with each hello; operator_labels are what people say of it, and outweigh.
-- last_seen changes every few minutes, seen_on once a day: an index on the former would cost each of those updates
-- their place beside the row before.
ALTER TABLE device
    ADD COLUMN operator_labels  jsonb     NOT NULL DEFAULT '{}',
    ADD COLUMN all_labels       jsonb     GENERATED ALWAYS AS (labels || operator_labels) STORED,
    ADD COLUMN running_order    bigint[]  GENERATED ALWAYS AS (version_order(running_version)) STORED,
    ADD COLUMN seen_on          date      GENERATED ALWAYS AS ((last_seen AT TIME ZONE 'UTC')::date) STORED;

CREATE INDEX device_by_hardware ON device (hardware, id);
CREATE INDEX device_by_running_order ON device (running_order, id);
CREATE INDEX device_by_labels ON device USING gin (all_labels);
CREATE INDEX device_by_seen_on ON device (seen_on, id);
CREATE INDEX device_held ON device (id) WHERE held;
CREATE INDEX device_once_revoked ON device (id) WHERE revoked_at IS NOT NULL;
CREATE INDEX device_claim_of_device ON device_claim (device_id);

-- When this database was filled from a backup. Since then, whatever devices hold may be newer than what is here: no
-- directive below (counter_epoch, counter_floor) is published any more.
CREATE TABLE restore_point (
    restored_at    timestamptz PRIMARY KEY,
    backup_at      timestamptz NOT NULL,
    counter_epoch  bigint      NOT NULL,
    counter_floor  bigint      NOT NULL,
    CONSTRAINT restore_point_floor_counts CHECK (counter_epoch >= 0 AND counter_floor > 0)
);

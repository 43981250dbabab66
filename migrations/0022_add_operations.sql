-- Changes of many devices, carried out in the background: what is left of each is in operation_device, and goes from
-- there in the transaction that changes the device, so that a restart goes on where it was.

-- regions and cohorts: whoever began it changes no device beyond these; null: all.
CREATE TABLE operation (
    id          uuid        PRIMARY KEY,
    state       text        NOT NULL DEFAULT 'running',
    filter      text        NOT NULL,
    change      jsonb       NOT NULL,
    reason      text        NOT NULL,
    created_by  text        NOT NULL,
    created_at  timestamptz NOT NULL,
    ended_at    timestamptz,
    total       bigint      NOT NULL,
    done        bigint      NOT NULL DEFAULT 0,
    refused     bigint      NOT NULL DEFAULT 0,
    errors      jsonb       NOT NULL DEFAULT '[]',
    regions     text[],
    cohorts     text[],
    CONSTRAINT operation_state_is_known CHECK (state IN ('running', 'done', 'failed', 'cancelled')),
    CONSTRAINT operation_has_an_end CHECK ((state = 'running') = (ended_at IS NULL))
);
CREATE INDEX operation_running ON operation (id) WHERE state = 'running';

CREATE TABLE operation_device (
    operation_id  uuid NOT NULL REFERENCES operation ON DELETE CASCADE,
    device_id     text NOT NULL,
    PRIMARY KEY (operation_id, device_id)
);

CREATE TRIGGER operation_is_fenced BEFORE INSERT OR UPDATE OR DELETE ON operation
    FOR EACH STATEMENT EXECUTE FUNCTION check_lease();

-- It has been moved, and has not said hello since: what it holds is still its old cohort's.
ALTER TABLE device ADD COLUMN moved boolean NOT NULL DEFAULT false;

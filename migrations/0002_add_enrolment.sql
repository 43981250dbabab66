-- Claims, keys and certificates of devices, and revocation.

-- A device's credentials issued at or before revoked_at are refused for ever. It is revoked while there is no newer
-- one: until it is enrolled again. Both in whole seconds, which is what a broker credential states.
ALTER TABLE device
    ADD COLUMN admitted_at timestamptz,
    ADD COLUMN revoked_at  timestamptz;

CREATE TABLE device_claim (
    secret        bytea       PRIMARY KEY,
    device_id     text        NOT NULL REFERENCES device,
    created_by    text        NOT NULL,
    created_at    timestamptz NOT NULL,
    expires_at    timestamptz NOT NULL,
    used_at       timestamptz,
    withdrawn_at  timestamptz,
    CONSTRAINT device_claim_secret_is_sha256 CHECK (octet_length(secret) = 32),
    CONSTRAINT device_claim_has_one_end CHECK (used_at IS NULL OR withdrawn_at IS NULL)
);
CREATE UNIQUE INDEX device_claim_one_open ON device_claim (device_id) WHERE used_at IS NULL AND withdrawn_at IS NULL;

-- A key is one device's for ever. The id is computed from the key (RFC 9679).
CREATE TABLE device_key (
    kid         bytea       PRIMARY KEY,
    device_id   text        NOT NULL REFERENCES device,
    cose_key    bytea       NOT NULL,
    created_at  timestamptz NOT NULL,
    revoked_at  timestamptz,
    CONSTRAINT device_key_kid_is_short CHECK (octet_length(kid) = 16)
);
CREATE INDEX device_key_of_device ON device_key (device_id);

CREATE TABLE device_certificate (
    serial      bytea       PRIMARY KEY,
    device_id   text        NOT NULL REFERENCES device,
    kid         bytea       NOT NULL REFERENCES device_key,
    issued_at   timestamptz NOT NULL,
    expires_at  timestamptz NOT NULL,
    revoked_at  timestamptz
);
CREATE INDEX device_certificate_of_device ON device_certificate (device_id, issued_at);
CREATE INDEX device_certificate_revoked ON device_certificate (expires_at) WHERE revoked_at IS NOT NULL;

CREATE TABLE device_revocation (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device_id   text        NOT NULL REFERENCES device,
    revoked_at  timestamptz NOT NULL,
    actor       text        NOT NULL,
    reason      text        NOT NULL
);
CREATE INDEX device_revocation_of_device ON device_revocation (device_id, id);

-- Which node decides. Of several servers on one database one holds the lease; whoever has lost it changes nothing more
-- of what devices are told, and of what that is concluded from.

-- A new holder, or a new start of the same one, raises the generation. It is part of a key, so that taking the lease
-- waits for the transactions of the generation before (FOR KEY SHARE, below), and renewing it waits for none.
CREATE TABLE lease (
    name        text        PRIMARY KEY,
    holder      text        NOT NULL,
    generation  bigint      NOT NULL,
    until       timestamptz NOT NULL,
    CONSTRAINT lease_generation_is_a_key UNIQUE (name, generation)
);
INSERT INTO lease (name, holder, generation, until) VALUES ('orchestrator', '', 0, '-infinity');

-- Which generation has decided; null where nobody said, as in a database that was made before.
ALTER TABLE decision
    ADD COLUMN generation bigint DEFAULT nullif(current_setting('tidegate.generation', true), '')::bigint;

-- A server says its generation when it connects. From its first change of a fenced table on, a transaction keeps the
-- lease where it is until it ends. The clock is this database's, read when the change is made.
CREATE FUNCTION check_lease() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    mine bigint := nullif(current_setting('tidegate.generation', true), '')::bigint;
BEGIN
    IF mine IS NOT NULL THEN
        PERFORM FROM lease
          WHERE name = 'orchestrator' AND generation = mine AND until > clock_timestamp() FOR KEY SHARE;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'generation % does not hold the lease', mine USING ERRCODE = 'TG001';
        END IF;
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER approval_is_fenced BEFORE INSERT OR UPDATE OR DELETE ON approval
    FOR EACH STATEMENT EXECUTE FUNCTION check_lease();
CREATE TRIGGER campaign_is_fenced BEFORE INSERT OR UPDATE OR DELETE ON campaign
    FOR EACH STATEMENT EXECUTE FUNCTION check_lease();
CREATE TRIGGER campaign_region_is_fenced BEFORE INSERT OR UPDATE OR DELETE ON campaign_region
    FOR EACH STATEMENT EXECUTE FUNCTION check_lease();
CREATE TRIGGER decision_is_fenced BEFORE INSERT OR UPDATE OR DELETE ON decision
    FOR EACH STATEMENT EXECUTE FUNCTION check_lease();
CREATE TRIGGER directive_is_fenced BEFORE INSERT OR UPDATE OR DELETE ON directive
    FOR EACH STATEMENT EXECUTE FUNCTION check_lease();
CREATE TRIGGER execution_is_fenced BEFORE INSERT OR UPDATE OR DELETE ON execution
    FOR EACH STATEMENT EXECUTE FUNCTION check_lease();
CREATE TRIGGER release_revocation_is_fenced BEFORE INSERT OR UPDATE OR DELETE ON release_revocation
    FOR EACH STATEMENT EXECUTE FUNCTION check_lease();
CREATE TRIGGER trust_root_is_fenced BEFORE INSERT OR UPDATE OR DELETE ON trust_root
    FOR EACH STATEMENT EXECUTE FUNCTION check_lease();
CREATE TRIGGER trust_status_is_fenced BEFORE INSERT OR UPDATE OR DELETE ON trust_status
    FOR EACH STATEMENT EXECUTE FUNCTION check_lease();

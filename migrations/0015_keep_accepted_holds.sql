-- The hold that a person has ended last: a restart does not bring it back. The time is in Unix seconds, as the rule has it.
ALTER TABLE halt_state
    ADD COLUMN accepted_channel   text,
    ADD COLUMN accepted_silent    integer,
    ADD COLUMN accepted_bad_since double precision;

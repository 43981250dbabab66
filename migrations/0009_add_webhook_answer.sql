-- The last answer of the open wave's webhook: its wave (from 0), word, reason, and when (Unix seconds).
ALTER TABLE campaign
    ADD COLUMN answer jsonb,
    DROP CONSTRAINT campaign_awaits_is_known,
    ADD CONSTRAINT campaign_awaits_is_known CHECK (awaits IN ('', 'advance', 'webhook'));

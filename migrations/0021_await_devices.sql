-- A wave that stands still says that it waits for devices.
ALTER TABLE campaign
    DROP CONSTRAINT campaign_awaits_is_known,
    ADD CONSTRAINT campaign_awaits_is_known CHECK (awaits IN ('', 'advance', 'webhook', 'devices'));

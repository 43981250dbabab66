-- The line that the plan has for a region since its wave opened: plan_l0 at plan_t0 to target at plan_t1 (Unix seconds).
-- A level that was held back makes up for it, and no more. Waves that are open now go on as if they had just opened.
ALTER TABLE campaign_region
    ADD COLUMN plan_t0 bigint NOT NULL DEFAULT 0,
    ADD COLUMN plan_l0 bigint NOT NULL DEFAULT 0,
    ADD COLUMN plan_t1 bigint NOT NULL DEFAULT 0;
UPDATE campaign_region SET plan_t0 = t1, plan_l0 = l1, plan_t1 = t1 WHERE l1 <= target;
ALTER TABLE campaign_region
    ADD CONSTRAINT campaign_region_plan CHECK (plan_t0 <= plan_t1 AND 0 <= plan_l0 AND plan_l0 <= target);

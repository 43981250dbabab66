-- 0011 left waves that were open then without a line, so that the evidence alone bounded how fast their levels rose.
-- Their lines begin now, where their levels are, and take the time that the plan gives the wave.
UPDATE campaign_region AS r
   SET plan_t0 = line.t0, plan_l0 = r.l1, plan_t1 = line.t0 + line.seconds
  FROM campaign AS c
 CROSS JOIN LATERAL (SELECT extract(epoch FROM now())::bigint AS t0,
                            coalesce((c.plan #>> ARRAY['waves', c.wave::text, 'ramp_s'])::bigint, 3600) AS seconds) AS line
 WHERE c.id = r.campaign_id AND c.wave IS NOT NULL AND r.plan_t0 = r.plan_t1 AND r.l1 < r.target;

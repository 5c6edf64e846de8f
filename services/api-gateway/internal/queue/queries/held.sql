-- held: what is in somebody's hands, and whether it fills a slot of a worker that gives signs of life.
SELECT j.status::text AS holds, j.repository, coalesce(j.claimed_at, j.status_change_time) AS claimed_at, w.id IS NOT NULL AS fills_slot
FROM   ci_jobs j LEFT JOIN ci_workers w ON w.id = j.worker_id AND w.dead_at IS NULL AND w.beat_at > clock_timestamp() - w.lease
WHERE  j.claim_token IS NOT NULL

-- lost_jobs: claims to be ended: of dead workers, past their deadline, or held by hand for too long.
SELECT j.id, j.claim_token,
       CASE WHEN w.dead_at IS NOT NULL THEN 'dead'
            WHEN j.deadline_at < clock_timestamp() THEN 'overdue'
            ELSE 'unowned' END AS cause,
       coalesce(w.name, '')
FROM   ci_jobs j LEFT JOIN ci_workers w ON w.id = j.worker_id
WHERE  j.claim_token IS NOT NULL
AND   (w.dead_at IS NOT NULL
       OR j.deadline_at < clock_timestamp()
       OR (w.id IS NULL AND j.status_change_time < clock_timestamp() - @unowned_after::interval))
ORDER  BY j.id
LIMIT  1000

-- blocked_count: how many jobs are blocked, by the state that they go to.
SELECT admit_to::text AS admit_to, count(*)::integer AS blocked
FROM   ci_jobs
WHERE  status = 'blocked' AND @repository::text IN ('', repository)
AND    status NOT IN ('new', 'initializing', 'success', 'error', 'failure', 'cancelled', 'skipped') -- the index's words
GROUP  BY admit_to

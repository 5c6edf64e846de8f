-- blocked_jobs: blocked jobs that nobody else will move: their backoff is over, they have failed too often, their
-- run is cancelled, or their needs are final (a backstop: whoever ended the last need has seen to it).
SELECT b.id, b.run_id, b.failures >= @max_failures AS exhausted
FROM   ci_jobs b
WHERE  b.status = 'blocked'
AND    b.status NOT IN ('new', 'initializing', 'success', 'error', 'failure', 'cancelled', 'skipped') -- the index's words
AND   (b.not_before <= clock_timestamp() OR b.failures >= @max_failures
       OR (b.not_before IS NULL AND NOT EXISTS (
               SELECT FROM ci_jobs need
               WHERE  need.run_id = b.run_id AND need.workflow = b.workflow AND need.job_key = ANY (b.needs)
               AND    NOT ci_is_final(need.status))))
ORDER  BY b.not_before NULLS LAST, b.id -- what a limit holds back must not crowd out what is due
LIMIT  1000

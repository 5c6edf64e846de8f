-- lock_runs: the runs of these jobs, in order and in a statement of its own, before anything ends one of the jobs.
-- Two writers that came in another order would wait for each other for ever.
SELECT FROM ci_runs
WHERE  id IN (SELECT run_id FROM ci_jobs WHERE id = ANY (@jobs))
ORDER  BY id
FOR UPDATE

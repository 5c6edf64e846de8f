-- forget_workers: those dead for a day that hold nothing.
DELETE FROM ci_workers w
WHERE  w.dead_at < clock_timestamp() - interval '1 day'
AND    NOT EXISTS (SELECT FROM ci_jobs j WHERE j.worker_id = w.id AND j.claim_token IS NOT NULL)

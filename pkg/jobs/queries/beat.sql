-- beat: a worker lives, and learns which claims it still holds and which of them somebody wants cancelled. alive is
-- false when the reaper has marked it: its claims are gone.
WITH beat AS (
    UPDATE ci_workers SET beat_at = clock_timestamp() WHERE id = @worker AND dead_at IS NULL RETURNING id
)
SELECT EXISTS (SELECT FROM beat) AS alive,
       coalesce(array_agg(j.id ORDER BY j.id), '{}') AS jobs,
       coalesce(array_agg(j.claim_token ORDER BY j.id), '{}') AS tokens,
       coalesce(array_agg(j.cancel_requested_at IS NOT NULL ORDER BY j.id), '{}') AS cancelled
FROM   ci_jobs j
WHERE  j.worker_id = @worker AND j.claim_token IS NOT NULL

-- beat: a worker lives, and learns which claims it still holds, which of them somebody wants cancelled, how many workers of
-- its stage live, and how many of those are older. alive is false when the reaper has marked it: its claims are gone.
WITH beat AS (
    UPDATE ci_workers SET beat_at = clock_timestamp() WHERE id = @worker AND dead_at IS NULL RETURNING stage
), peers AS (
    SELECT count(*) AS all_of_us, count(*) FILTER (WHERE w.id < @worker) AS older
    FROM   ci_workers w JOIN beat USING (stage) WHERE w.dead_at IS NULL
)
SELECT EXISTS (SELECT FROM beat) AS alive,
       (SELECT all_of_us FROM peers) AS peers, (SELECT older FROM peers) AS rank,
       coalesce(array_agg(j.id ORDER BY j.id), '{}') AS jobs,
       coalesce(array_agg(j.claim_token ORDER BY j.id), '{}') AS tokens,
       coalesce(array_agg(j.cancel_requested_at IS NOT NULL ORDER BY j.id), '{}') AS cancelled
FROM   ci_jobs j
WHERE  j.worker_id = @worker AND j.claim_token IS NOT NULL

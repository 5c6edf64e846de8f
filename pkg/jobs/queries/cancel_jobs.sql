-- cancel_jobs: what nobody holds is cancelled at once. A holder learns it from the notification here (a hint for its
-- next beat) or from the beat itself.
WITH asked AS (
    UPDATE ci_jobs
    SET    status = CASE WHEN ci_is_held(status) THEN status ELSE 'cancelled' END,
           cancel_requested_at = coalesce(cancel_requested_at, clock_timestamp()),
           reason = 'cancelled on request'
    WHERE  run_id = @run AND NOT ci_is_final(status)
    RETURNING id, status
)
SELECT pg_notify('ci_jobs_status_channel', id || ':cancelled') FROM asked WHERE ci_is_held(status)

-- cancel_run: note the wish on the run and lock it, before its jobs.
UPDATE ci_runs
SET    cancel_requested_at = coalesce(cancel_requested_at, clock_timestamp()),
       cancelled_by = CASE WHEN cancel_requested_at IS NULL THEN nullif(@principal, '') ELSE cancelled_by END,
       version = version + 1
WHERE  id = @run AND NOT ci_is_final(status)
RETURNING id

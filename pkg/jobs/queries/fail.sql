-- fail: an infrastructure failure. The job waits for the end of its backoff; the reaper admits it again, or ends it
-- after too many.
UPDATE ci_jobs
SET    status = CASE WHEN cancel_requested_at IS NULL THEN 'blocked' ELSE 'cancelled' END::ci_job_status,
       failures = failures + 1, not_before = clock_timestamp() + @backoff::interval, reason = @cause
WHERE  id = @job AND claim_token = @token

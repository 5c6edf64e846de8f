-- release: give a job back. No failure is counted, and its turn stays.
UPDATE ci_jobs
SET    status = CASE WHEN cancel_requested_at IS NULL THEN admit_to ELSE 'cancelled' END, reason = ''
WHERE  id = @job AND claim_token = @token

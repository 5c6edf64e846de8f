-- finish: end claims, each named by its job and its token. A claim that is not there any more was lost, unless an
-- earlier try of this very finish ended it and only the reply was lost. A job that was to be cancelled goes no
-- further than its claim.
WITH done AS (
    SELECT * FROM unnest(@jobs::bigint[], @tokens::uuid[], @statuses::ci_job_status[], @reasons::text[])
                  AS d (id, token, status, reason)
), finished AS (
    UPDATE ci_jobs j
    SET    status = CASE WHEN j.cancel_requested_at IS NOT NULL AND NOT ci_is_final(d.status)
                         THEN 'cancelled' ELSE d.status END,
           reason = d.reason, failures = 0, crashes = 0
    FROM   done d
    WHERE  j.id = d.id AND j.claim_token = d.token
    RETURNING j.id
)
SELECT d.token,
       f.id IS NOT NULL OR EXISTS (
           SELECT FROM ci_attempts a
           WHERE  a.job_id = d.id AND a.claim_token = d.token
           AND    (a.outcome = d.status OR (a.outcome = 'cancelled' AND NOT ci_is_final(d.status)))) AS ours
FROM   done d LEFT JOIN finished f USING (id)

-- reap: end claims, each named by its token, so that one that was finished meanwhile is left alone. A dead worker
-- costs the job a crash; a deadline ends it, for a handler that hangs would hang again.
WITH lost AS (
    SELECT * FROM unnest(@jobs::bigint[], @tokens::uuid[], @causes::text[], @workers::text[]) AS l (id, token, cause, worker)
)
UPDATE ci_jobs j
SET    status = CASE
           WHEN j.cancel_requested_at IS NOT NULL THEN 'cancelled'
           WHEN l.cause = 'overdue' THEN 'error'
           WHEN l.cause = 'dead' AND j.crashes + 1 >= @max_crashes THEN 'error'
           ELSE j.admit_to END,
       crashes = j.crashes + CASE l.cause WHEN 'dead' THEN 1 ELSE 0 END,
       reason = CASE
           WHEN j.cancel_requested_at IS NOT NULL THEN j.reason
           WHEN l.cause = 'overdue' THEN format('not ended by its deadline, %s after it was claimed', j.timeout)
           WHEN l.cause = 'dead' AND j.crashes + 1 >= @max_crashes
               THEN format('worker %s died while it was %s; that was crash %s of at most %s', l.worker, j.status, j.crashes + 1, @max_crashes::integer)
           WHEN l.cause = 'dead' THEN format('worker %s died while it was %s', l.worker, j.status)
           ELSE format('claimed by hand and not ended within %s', @unowned_after::interval) END
FROM   lost l
WHERE  j.id = l.id AND j.claim_token = l.token
RETURNING j.id, l.cause, j.status, j.attempt

-- exhaust: end what has failed too often. The cause of the last failure stays in front.
UPDATE ci_jobs
SET    status = 'error', reason = format('%s (failure %s of at most %s)', reason, failures, @max_failures::integer)
WHERE  id = ANY (@jobs) AND status = 'blocked' AND failures >= @max_failures
RETURNING id

-- claim: hand up to @slots reports that are due to one notifier, for @held at most. The row holds the newest version
-- only, so whatever came in between is never sent.
-- ARRAY(…): evaluated once; IN (… LIMIT n) may be re-run and lock more rows than the limit.
-- SKIP LOCKED: a row that another notifier is claiming, or that a job is just renewing, is not worth waiting for.
-- expired: what a notifier held past its deadline is anybody's again, from the next look on; he died or stood still, since a
-- call to GitHub ends long before. Whether GitHub was told is not known, so it is told once more.
WITH expired AS (
    UPDATE ci_reports
    SET    status = 'pending', claim_token = NULL, deadline_at = NULL
    WHERE  id = ANY (ARRAY (
               SELECT id FROM ci_reports
               WHERE  status = 'notifying' AND deadline_at <= clock_timestamp()
               ORDER  BY deadline_at, id
               LIMIT  100
               FOR UPDATE SKIP LOCKED))
)
UPDATE ci_reports
SET    status = 'notifying', claim_token = gen_random_uuid(), deadline_at = clock_timestamp() + @held::interval, attempt = attempt + 1
WHERE  id = ANY (ARRAY (
           SELECT id FROM ci_reports
           WHERE  status = 'pending' AND not_before <= clock_timestamp()
           ORDER  BY not_before, id
           LIMIT  @slots
           FOR UPDATE SKIP LOCKED))
RETURNING id, run_id, job_id, repository, sha, context, state, description, version, attempt, claim_token

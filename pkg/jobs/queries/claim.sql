-- claim: hand up to @slots waiting jobs to one worker. {{takes}} and {{holds}} are the stage's states, put in as
-- literals once per stage: a parameter cannot match the partial index in a generic plan.
-- ARRAY(…): evaluated once; IN (… LIMIT n) may be re-run and lock more rows than the limit.
-- SKIP LOCKED: a row that another worker is claiming is not worth waiting for.
-- FOR SHARE: the reaper marks a worker dead only after its claims in flight, and so sees them.
-- A trigger stamps the time, counts the attempt and draws the claim token.
WITH me AS MATERIALIZED (
    SELECT id FROM ci_workers WHERE id = @worker AND dead_at IS NULL FOR SHARE
)
UPDATE ci_jobs j
SET    status = '{{holds}}', worker_id = @worker, deadline_at = clock_timestamp() + j.timeout
FROM   ci_runs r
WHERE  j.id = ANY (ARRAY (
           SELECT id FROM ci_jobs
           WHERE  status = '{{takes}}'
           ORDER  BY priority DESC, turn, id
           LIMIT  @slots
           FOR UPDATE SKIP LOCKED))
AND    r.id = j.run_id
AND    EXISTS (SELECT FROM me)
RETURNING j.id, j.run_id, j.repository, j.name, j.attempt, j.claim_token, j.failures, j.timeout, j.deadline_at,
          r.event, coalesce(r.ref, ''), coalesce(r.head_sha, ''), coalesce(r.base_ref, ''), coalesce(r.base_sha, ''), coalesce(r.pull_request, 0),
          coalesce(r.author, ''), coalesce(r.title, ''), r.trusted, r.log_day

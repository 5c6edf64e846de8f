-- add: the other jobs of the answer, beside the row that asked and with its priority, in the order of the plan. A
-- trigger gives the claimable ones their turns.
WITH answer AS (
    SELECT * FROM ROWS FROM (jsonb_to_recordset(@answers::jsonb)
           AS (status ci_job_status, workflow text, job_key text, matrix_index integer, name text, needs text[],
               fail_fast boolean, timeout_seconds double precision, spec jsonb, reason text)) WITH ORDINALITY
), added AS (
    INSERT INTO ci_jobs (run_id, repository, priority, status, workflow, job_key, matrix_index, name, needs, fail_fast, timeout, reason)
    SELECT j.run_id, j.repository, j.priority, a.status, a.workflow, a.job_key, a.matrix_index, a.name, a.needs,
           a.fail_fast, make_interval(secs => a.timeout_seconds), a.reason
    FROM   ci_jobs j, answer a
    WHERE  j.id = @job
    ORDER  BY a.ordinality
    RETURNING id, workflow, job_key, matrix_index
)
INSERT INTO ci_job_specs (job_id, spec)
SELECT added.id, answer.spec
FROM   added JOIN answer USING (workflow, job_key, matrix_index)
WHERE  answer.spec IS NOT NULL

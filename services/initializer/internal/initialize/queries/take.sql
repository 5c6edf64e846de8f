-- take: the row that asked becomes the first job of the answer. Its status follows with the end of the claim.
-- admit_to: the claim left the way back to `new` there; from now on the way is to the runners.
-- A claimable job stands in the runners' queue by a turn of that queue; a blocked one gets its turn when admitted.
WITH answer AS (
    SELECT * FROM jsonb_to_record(@answer::jsonb)
           AS a (status ci_job_status, workflow text, job_key text, matrix_index integer, name text, needs text[],
                 fail_fast boolean, timeout_seconds double precision, spec jsonb)
), taken AS (
    UPDATE ci_jobs j
    SET    workflow = a.workflow, job_key = a.job_key, matrix_index = a.matrix_index, name = a.name, needs = a.needs,
           fail_fast = a.fail_fast, timeout = make_interval(secs => a.timeout_seconds), admit_to = 'initialized',
           turn = CASE a.status WHEN 'initialized' THEN ci_take_turns(j.repository, 'initialized', j.priority, 1) ELSE j.turn END
    FROM   answer a
    WHERE  j.id = @job AND j.claim_token = @token
    RETURNING j.id
)
INSERT INTO ci_job_specs (job_id, spec)
SELECT taken.id, answer.spec FROM taken, answer
WHERE  answer.spec IS NOT NULL

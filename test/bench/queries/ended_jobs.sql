-- ended_jobs: the jobs of the runs $1 to $2, with their attempts; those of each fifth run with four steps.
WITH run AS (
    SELECT * FROM ci_runs WHERE id BETWEEN $1 AND $2
), job AS (
    INSERT INTO ci_jobs (run_id, repository, status, turn, attempt, transitions, workflow, job_key, matrix_index, name)
    SELECT id, repository, status, 0, 2, 4, '.ci/workflows/ci.yml', 'test', i, 'ci / test (' || i || ')' FROM run, generate_series(1, 10) AS i
    RETURNING id, run_id, status, matrix_index
), attempt AS (
    INSERT INTO ci_attempts (job_id, attempt, stage, claim_token, claimable_at, claimed_at, ended_at, outcome)
    SELECT job.id, 1, 'initializing'::ci_job_status, gen_random_uuid(), created_at, created_at + interval '50 ms', created_at + interval '1 s' * (1 + random()), 'initialized'::ci_job_status
    FROM   job JOIN run ON run.id = run_id WHERE matrix_index = 1
    UNION ALL
    SELECT job.id, 2, 'running', gen_random_uuid(), finished_at - worked - waited, finished_at - worked, finished_at, job.status
    FROM   job JOIN run ON run.id = run_id,
           LATERAL (SELECT interval '1 s' * exp(4 * random()) * sign(job.id) AS waited, interval '1 s' * exp(2 + 3 * random()) * sign(job.id) AS worked) AS took
    RETURNING job_id, attempt, stage, claimed_at, ended_at
)
INSERT INTO ci_steps (job_id, attempt, number, name, status, started_at, finished_at)
SELECT job_id, attempt, n, 'step ' || n, 'success', claimed_at + (ended_at - claimed_at) * (n - 1) / 4, claimed_at + (ended_at - claimed_at) * n / 4
FROM   attempt JOIN job ON job.id = job_id, generate_series(1, 4) AS n
WHERE  stage = 'running' AND run_id % 5 = 0

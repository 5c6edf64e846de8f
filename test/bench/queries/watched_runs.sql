-- watched_runs: $1 runs at work, each of four jobs with five steps: what a page shows of a middling workflow.
WITH run AS (
    INSERT INTO ci_runs (repository, event, ref, head_sha, author, title, status)
    SELECT 'https://github.com/acme/widgets-' || i % 64, 'push', 'refs/heads/main', lpad(to_hex(i), 40, '0'),
           'ada', 'make the widget rounder', 'running'
    FROM   generate_series(1, $1::bigint) AS i
    RETURNING id, repository
), job AS (
    INSERT INTO ci_jobs (run_id, repository, status, turn, attempt, transitions, workflow, job_key, matrix_index, name)
    SELECT id, repository, 'initialized', id, 1, 2, '.ci/workflows/ci.yml', 'test', i, format('ci / test (%s)', i)
    FROM   run, generate_series(1, 4) AS i
    RETURNING id
)
INSERT INTO ci_steps (job_id, attempt, number, name, status)
SELECT id, 2, number, 'go test ./... with -race', 'pending' FROM job, generate_series(1, 5) AS number

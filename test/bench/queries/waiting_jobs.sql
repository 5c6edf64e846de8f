-- waiting_jobs: $1 that wait, in runs of ten: four new, four initialized, one that needs another and one behind a backoff; and a
-- twentieth of as many that run.
WITH run AS (
    INSERT INTO ci_runs (repository, event, status)
    SELECT 'https://github.com/acme/widgets-' || i % 64, 'push', 'running' FROM generate_series(1, $1::bigint / 10) AS i
    RETURNING id, repository
)
INSERT INTO ci_jobs (run_id, repository, status, turn, workflow, job_key, matrix_index, name, needs, not_before, reason, claim_token, claimed_at, worker_id, attempt)
SELECT id, repository, status::ci_job_status, id + i, '.ci/workflows/ci.yml', 'test-' || i, 0, 'ci / test-' || i,
       CASE i WHEN 9 THEN '{test-1}'::text[] ELSE '{}' END, CASE i WHEN 10 THEN now() + interval '1 hour' END, '',
       CASE i WHEN 11 THEN gen_random_uuid() END, now(), CASE i WHEN 11 THEN (SELECT min(w.id) FROM ci_workers w WHERE w.stage = 'runner') END, 0
FROM   run, unnest('{new,new,new,new,initialized,initialized,initialized,initialized,blocked,blocked,running}'::text[]) WITH ORDINALITY AS s (status, i)
WHERE  i < 11 OR id % 2 = 0

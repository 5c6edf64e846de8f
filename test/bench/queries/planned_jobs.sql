-- planned_jobs: one job of each run, which a runner may claim.
INSERT INTO ci_jobs (run_id, repository, status, turn, attempt, transitions, workflow, job_key, name)
SELECT id, repository, 'initialized', id, 1, 2, '.ci/workflows/ci.yml', 'test', 'ci / test'
FROM   ci_runs

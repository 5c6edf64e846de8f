-- asked_jobs: the job of each run, which an initializer may claim.
INSERT INTO ci_jobs (run_id, repository, turn) SELECT id, repository, id FROM ci_runs

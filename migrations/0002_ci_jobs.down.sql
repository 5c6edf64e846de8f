DROP TABLE ci_transitions, ci_workers, ci_jobs, ci_runs, ci_turns, ci_repositories;
DROP DOMAIN ci_repository, ci_commit;
DROP FUNCTION ci_repository_url, ci_is_final, ci_is_held;

-- finished_runs: $1 of them.
INSERT INTO ci_runs (repository, event, status, finished_at)
SELECT 'https://github.com/acme/widgets-' || i % 64, 'push', 'success', now()
FROM   generate_series(1, $1::bigint) AS i

-- planned_runs: what api-gateway and initializer leave behind for $1 runs of one job each. The jobs and reports follow.
INSERT INTO ci_runs (repository, event, ref, head_sha, author, title, status)
SELECT 'https://github.com/acme/widgets-' || i % 64, 'push', 'refs/heads/main', lpad(to_hex(i), 40, '0'),
       'ada', 'make the widget rounder', 'running'
FROM   generate_series(1, $1::bigint) AS i

-- asked_runs: what api-gateway leaves behind for $1 runs. The jobs follow.
INSERT INTO ci_runs (repository, event, ref, head_sha, author, title)
SELECT 'https://github.com/acme/widgets-' || i % 64, 'push', 'refs/heads/main', lpad(to_hex(i), 40, '0'),
       'ada', 'make the widget rounder'
FROM   generate_series(1, $1::bigint) AS i

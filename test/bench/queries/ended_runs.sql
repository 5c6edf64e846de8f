-- ended_runs: $1 finished runs of ten jobs, oldest first. Nine of ten are of the first repository; a tenth of them all ended within
-- the last 24 hours, the others within 30 days.
INSERT INTO ci_runs (repository, event, status, created_at, finished_at)
SELECT 'https://github.com/acme/widgets-' || CASE WHEN i % 10 < 9 THEN 0 ELSE i % 64 END, 'push',
       CASE WHEN i % 13 = 0 THEN 'failure' ELSE 'success' END::ci_job_status, at - interval '1 min' * (1 + random() * 9), at
FROM   generate_series(1, $1::bigint) AS i,
       LATERAL (SELECT now() - CASE WHEN i > $1 * 0.9 THEN interval '24 hours' * (($1 - i) / ($1 * 0.1)) ELSE interval '30 days' * (1 - i / ($1 * 0.94)) END AS at) AS t

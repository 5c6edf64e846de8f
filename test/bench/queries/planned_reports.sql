-- planned_reports: GitHub is to show each of them as pending, and does.
INSERT INTO ci_reports (repository, sha, context, run_id, job_id, state, description, status, sent_version)
SELECT r.repository, r.head_sha, 'lockstep/' || j.name, r.id, j.id, 'pending', 'waiting for a runner', 'notified', 1
FROM   ci_jobs j JOIN ci_runs r ON r.id = j.run_id

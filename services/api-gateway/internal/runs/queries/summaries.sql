-- summaries: the newest runs without their jobs.
SELECT id::text AS id, repository, ref, head_sha, event, pull_request, title, author, status, created_at, finished_at
FROM   ci_runs
ORDER  BY id DESC
LIMIT  @limit

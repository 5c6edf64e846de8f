-- summaries: the newest runs without their jobs. r.id: id alone would be the text of the answer, in whose order 9 comes before 10.
SELECT id::text AS id, repository, ref, head_sha, event, pull_request, title, author, status, created_at, finished_at
FROM   ci_runs r
ORDER  BY r.id DESC
LIMIT  @limit

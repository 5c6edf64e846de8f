-- read_bare: runs without version and jobs. r.id: id alone would be the text of the answer.
SELECT id::text AS id, repository, ref, head_sha, event, pull_request, title, author, status, created_at, finished_at
FROM   ci_runs r
WHERE  r.id = ANY (@runs::bigint[])
ORDER  BY r.id DESC

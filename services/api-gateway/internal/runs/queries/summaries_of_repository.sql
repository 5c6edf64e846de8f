-- summaries_of_repository: summaries, of one repository.
SELECT id::text AS id, repository, ref, head_sha, event, pull_request, title, author, status, created_at, finished_at
FROM   ci_runs r
WHERE  r.repository = @repository
ORDER  BY r.repository DESC, r.id DESC
LIMIT  @limit

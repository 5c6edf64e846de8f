-- summaries_of_repository: summaries, of one repository.
SELECT id::text AS id, repository, ref, head_sha, event, pull_request, title, author, status, created_at, finished_at
FROM   ci_runs
WHERE  repository = @repository
ORDER  BY id DESC
LIMIT  @limit

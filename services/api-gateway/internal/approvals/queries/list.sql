SELECT id, repository, pull_request, head_sha, sender_id, author, title, status, run_id, decided_by, decided_at, created_at
FROM   ci_approvals
WHERE  status = @status AND id < @before AND (@repository::text = '' OR repository = @repository)
ORDER  BY id DESC
LIMIT  @limit

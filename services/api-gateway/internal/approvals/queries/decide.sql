UPDATE ci_approvals
SET    status = @status, decided_by = @decided_by, decided_at = clock_timestamp(), run_id = @run_id
WHERE  id = @id
RETURNING id, repository, pull_request, head_sha, sender_id, author, title, status, run_id, decided_by, decided_at, created_at

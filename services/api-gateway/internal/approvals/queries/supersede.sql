-- supersede: what waits for an older commit of the pull request is stale.
UPDATE ci_approvals
SET    status = 'stale'
WHERE  repository = @repository AND pull_request = @pull_request AND status = 'waiting'
AND    head_sha <> @head_sha AND asked_at <= @asked_at

-- withdraw: the pull request was closed. What asked later, after a reopening, goes on waiting though this comes late.
UPDATE ci_approvals
SET    status = 'withdrawn'
WHERE  repository = @repository AND pull_request = @pull_request AND status = 'waiting' AND asked_at <= @asked_at

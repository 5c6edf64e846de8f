-- change: the settings that are given; max_running 0 is no limit.
UPDATE ci_repositories
SET    max_running = CASE WHEN @max_running::integer IS NULL THEN max_running ELSE nullif(@max_running, 0) END,
       weight      = coalesce(@weight, weight),
       fork_policy = coalesce(@fork_policy, fork_policy),
       github_id   = CASE WHEN @forget_github_id::boolean THEN NULL ELSE github_id END,
       changed_by  = @changed_by
WHERE  repository = @repository
RETURNING repository, max_running, weight, fork_policy, github_id

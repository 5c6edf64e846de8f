SELECT repository, max_running, weight, fork_policy, github_id
FROM   ci_repositories
WHERE  repository = @repository

SELECT repository, max_running, weight, fork_policy, github_id
FROM   ci_repositories
WHERE  repository > @after AND (@only::text = '' OR repository = @only)
ORDER  BY repository
LIMIT  @limit

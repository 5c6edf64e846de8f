-- meet: remember GitHub's number of a repository, unless one is remembered.
INSERT INTO ci_repositories AS known (repository, github_id)
VALUES (@repository, @github_id)
ON CONFLICT (repository) DO UPDATE SET github_id = EXCLUDED.github_id
WHERE  known.github_id IS NULL

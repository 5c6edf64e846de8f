-- change: the settings that are given; max_running 0 is no limit. With the same values it is a write too: somebody said so.
INSERT INTO ci_repositories AS old (repository, max_running, weight, fork_policy, changed_by)
VALUES (@repository, nullif(@max_running::integer, 0), coalesce(@weight::double precision, 1), coalesce(@fork_policy::text, 'ask'), @changed_by)
ON CONFLICT (repository) DO UPDATE
SET    max_running = CASE WHEN @max_running IS NULL THEN old.max_running ELSE EXCLUDED.max_running END,
       weight      = coalesce(@weight, old.weight),
       fork_policy = coalesce(@fork_policy, old.fork_policy),
       github_id   = CASE WHEN @forget_github_id::boolean THEN NULL ELSE old.github_id END,
       changed_by  = EXCLUDED.changed_by
RETURNING repository, max_running, weight, fork_policy, github_id

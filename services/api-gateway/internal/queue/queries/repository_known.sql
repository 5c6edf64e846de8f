-- repository_known: has anybody ever asked for a run of it, or set anything for it?
SELECT EXISTS (SELECT FROM ci_turns WHERE repository = @repository) OR EXISTS (SELECT FROM ci_repositories WHERE repository = @repository), now()

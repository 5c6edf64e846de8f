-- repository_tallies: what came of a repository's runs, and what the stages did for it.
SELECT kind, name, outcome, begins_at, ended, buckets
FROM   ci_tallies
WHERE  repository = @repository AND minutes = @minutes AND begins_at >= @since AND kind = ANY (@kinds::text[])

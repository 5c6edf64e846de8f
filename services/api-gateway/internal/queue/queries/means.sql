-- means: how long each stage works on a job of a repository, in ms; '' is all of them.
SELECT repository, name AS holds, sum(took_ms) / sum(ended) AS mean
FROM   ci_tallies
WHERE  repository = ANY (@repositories::text[]) AND kind = 'work' AND minutes = 1440 AND begins_at >= @since
GROUP  BY repository, name

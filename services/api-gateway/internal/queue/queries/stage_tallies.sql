-- stage_tallies: what the stages ended since @hour, in 5 minutes each, and since @day, in hours.
SELECT minutes, kind, name AS holds, ended, buckets
FROM   ci_tallies
WHERE  repository = @repository AND kind IN ('wait', 'work')
AND   (minutes = 5 AND begins_at >= @hour OR minutes = 60 AND begins_at >= @day)

-- forget_tallies: those that no statistics ask for any more; the last hour, day and 30 days are.
DELETE FROM ci_tallies
WHERE  minutes = 5    AND begins_at < now() - interval '2 hours'
OR     minutes = 60   AND begins_at < now() - interval '26 hours'
OR     minutes = 1440 AND begins_at < now() - interval '32 days'

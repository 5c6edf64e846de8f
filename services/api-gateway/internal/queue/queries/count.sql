-- count: how many jobs wait in a state, and since when. {{takes}} is put in as a literal, so that the state's partial index answers.
SELECT count(*)::integer AS waiting, min(status_change_time) AS oldest
FROM   ci_jobs
WHERE  status = '{{takes}}' AND @repository::text IN ('', repository)

-- article_claim: the article's claim; {{takes}} and {{holds}} are the worker's states.
UPDATE ci_jobs SET status='{{holds}}'
WHERE id = (
  SELECT id
  FROM ci_jobs
  WHERE status='{{takes}}'
  ORDER BY id
  FOR UPDATE SKIP LOCKED
  LIMIT 1
)
RETURNING *

-- waiting: the first jobs of a claimable state in the order in which they are claimed, with their places among all of them.
-- {{takes}} is put in as a literal, so that the state's partial index answers; it is read no further than to the last of them.
SELECT w.id::text AS id, w.run_id::text AS run_id, w.repository, w.name, w.status_change_time AS since, w.position
FROM  (SELECT j.*, row_number() OVER (ORDER BY priority DESC, turn, id)::integer AS position
       FROM   ci_jobs j WHERE status = '{{takes}}' ORDER BY priority DESC, turn, id) AS w
WHERE  @repository::text IN ('', w.repository)
LIMIT  @limit

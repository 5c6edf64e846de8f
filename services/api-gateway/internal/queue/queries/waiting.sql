-- waiting: the first jobs of each claimable state, in the order in which they are claimed. A state is a literal, so that its
-- partial index answers; a later stage adds its state here as it adds its index.
SELECT w.id::text AS id, w.run_id::text AS run_id, w.repository, w.name, w.status::text AS status, w.position, w.status_change_time AS since
FROM  (
    (SELECT j.*, row_number() OVER (ORDER BY priority DESC, turn, id)::integer AS position
     FROM   ci_jobs j WHERE status = 'new'         ORDER BY priority DESC, turn, id LIMIT @limit)
    UNION ALL
    (SELECT j.*, row_number() OVER (ORDER BY priority DESC, turn, id)::integer AS position
     FROM   ci_jobs j WHERE status = 'initialized' ORDER BY priority DESC, turn, id LIMIT @limit)
) AS w
ORDER  BY w.status, w.position

-- workers: those that nobody has marked dead, and what they hold.
SELECT w.id::text AS id, w.stage, w.name, w.slots,
       (SELECT count(*)::integer FROM ci_jobs j WHERE j.worker_id = w.id AND j.claim_token IS NOT NULL) AS busy,
       w.started_at, w.beat_at
FROM   ci_workers w
WHERE  w.dead_at IS NULL
ORDER  BY w.stage, w.id

-- blocked: the oldest jobs that no worker may claim yet, with all that keeps them.
WITH waiting AS MATERIALIZED (
    SELECT *
    FROM   ci_jobs
    WHERE  status = 'blocked' AND @repository::text IN ('', repository)
    AND    status NOT IN ('new', 'initializing', 'success', 'error', 'failure', 'cancelled', 'skipped') -- the index's words
    ORDER  BY id
    LIMIT  @limit
)
SELECT w.id::text AS id, w.run_id::text AS run_id, w.repository, w.name, w.status_change_time AS since, w.admit_to::text AS admit_to,
       coalesce((SELECT array_agg(format('"%s", which is %s', need.name, need.status) ORDER BY need.id)
                 FROM   ci_jobs need
                 WHERE  need.run_id = w.run_id AND need.workflow = w.workflow AND need.job_key = ANY (w.needs) AND need.status <> 'success'), '{}') AS needs,
       CASE WHEN w.not_before > clock_timestamp() THEN w.not_before END AS not_before, w.reason,
       CASE WHEN w.admit_to <> 'new' AND p.max_running <= (
                SELECT count(*) FROM ci_jobs busy
                WHERE  busy.repository = w.repository AND busy.status <> 'blocked'
                AND    busy.status NOT IN ('new', 'initializing', 'success', 'error', 'failure', 'cancelled', 'skipped'))
            THEN p.max_running ELSE 0 END AS full_with
FROM   waiting w LEFT JOIN ci_repositories p USING (repository)
ORDER  BY w.id

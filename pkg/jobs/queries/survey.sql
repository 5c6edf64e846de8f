-- survey: all that a reaper wants to know, in one statement a look.
-- lost: claims to be ended: of dead workers, past their deadline, or held by hand for too long.
-- blocked: jobs that nobody else will move: their backoff is over, they have failed too often, or (looked for by @sweep
-- only, as a backstop: whoever ended the last need has seen to it) their needs are final. What a full limit holds back is
-- not among them. In random order beyond the limit: one that cannot be moved must not be in the way each time.
WITH full_up AS MATERIALIZED (
    SELECT p.repository
    FROM   ci_repositories p
    WHERE  p.max_running <= (
               SELECT count(*) FROM ci_jobs busy
               WHERE  busy.repository = p.repository AND busy.status <> 'blocked'
               AND    busy.status NOT IN ('new', 'initializing', 'success', 'error', 'failure', 'cancelled', 'skipped'))
), lost AS (
    SELECT j.id, j.claim_token AS token, coalesce(w.name, '') AS worker,
           CASE WHEN w.dead_at IS NOT NULL THEN 'dead'
                WHEN j.deadline_at < clock_timestamp() THEN 'overdue'
                ELSE 'unowned' END AS cause
    FROM   ci_jobs j LEFT JOIN ci_workers w ON w.id = j.worker_id
    WHERE  j.claim_token IS NOT NULL
    AND   (w.dead_at IS NOT NULL
           OR j.deadline_at < clock_timestamp()
           OR (w.id IS NULL AND j.status_change_time < clock_timestamp() - @unowned_after::interval))
    ORDER  BY random()
    LIMIT  1000
), blocked AS (
    SELECT b.id, b.run_id, b.failures >= @max_failures AS exhausted
    FROM   ci_jobs b
    WHERE  b.status = 'blocked'
    AND    b.status NOT IN ('new', 'initializing', 'success', 'error', 'failure', 'cancelled', 'skipped') -- the index's words
    AND   (b.failures >= @max_failures
           OR ((b.not_before <= clock_timestamp()
                OR (@sweep AND b.not_before IS NULL AND NOT EXISTS (
                        SELECT FROM ci_jobs need
                        WHERE  need.run_id = b.run_id AND need.workflow = b.workflow AND need.job_key = ANY (b.needs)
                        AND    NOT ci_is_final(need.status))))
               AND (b.admit_to = 'new' OR b.repository NOT IN (SELECT repository FROM full_up))))
    ORDER  BY random()
    LIMIT  1000
)
SELECT current_setting('transaction_read_only') = 'on',
       (SELECT coalesce(json_agg(json_build_object('id', w.id, 'name', w.name, 'stage', w.stage, 'beat_at', w.beat_at,
                                                   'lease', extract(epoch FROM w.lease))), '[]')
        FROM   ci_workers w WHERE w.dead_at IS NULL),
       (SELECT coalesce(json_agg(lost), '[]') FROM lost),
       (SELECT coalesce(json_agg(blocked), '[]') FROM blocked)

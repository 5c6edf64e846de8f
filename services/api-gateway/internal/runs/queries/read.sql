-- read: runs with their jobs and the steps of each job's latest attempt, as of one moment. The jobs come as JSON (the
-- names are those of runs.Job and runs.Step), so that one statement and one round trip are enough for any number of runs.
-- version counts what ci_runs.version leaves out as well: the jobs' transitions and the progress of steps. It only rises.
SELECT r.id::text AS id, r.repository, r.ref, r.head_sha, r.event, r.pull_request, r.title, r.author,
       r.status, r.created_at, r.finished_at,
       r.version + progress.transitions + progress.steps AS version,
       progress.jobs
FROM   ci_runs r
CROSS  JOIN LATERAL (
    SELECT coalesce(sum(j.transitions), 0)::bigint AS transitions,
           coalesce(sum(steps.progress), 0)::bigint AS steps,
           coalesce(json_agg(json_build_object(
               'id', j.id::text,
               'name', j.name,
               'status', j.status,
               'attempt', j.attempt,
               'reason', CASE
                   WHEN j.status = 'blocked' AND j.not_before IS NOT NULL
                       THEN j.reason || format('; tried again after %s UTC', to_char(j.not_before, 'HH24:MI:SS'))
                   WHEN j.reason <> '' THEN j.reason
                   WHEN j.status = 'new' THEN 'waits for an initializer'
                   WHEN j.status = 'initialized' THEN 'waits for a runner'
                   WHEN j.status = 'blocked' THEN coalesce(
                       (SELECT 'waits for ' || string_agg(need.name, ', ' ORDER BY need.id)
                        FROM   ci_jobs need
                        WHERE  need.run_id = j.run_id AND need.workflow = j.workflow
                        AND    need.job_key = ANY (j.needs) AND need.status <> 'success'),
                       (SELECT format('waits for a free place: at most %s jobs of this repository run at once', p.max_running)
                        FROM   ci_repositories p
                        WHERE  p.repository = j.repository AND p.max_running IS NOT NULL),
                       'waits to be admitted')
                   ELSE '' END,
               -- What ended without being held (cancelled, skipped) never ran, whoever held it before.
               'started_at', CASE WHEN ci_is_held(j.status) OR (ci_is_final(j.status) AND ci_is_held(j.previous_status))
                                  THEN j.claimed_at END,
               'finished_at', CASE WHEN ci_is_final(j.status) THEN j.status_change_time END,
               'steps', steps.list
           ) ORDER BY j.id), '[]') AS jobs
    FROM   ci_jobs j
    CROSS  JOIN LATERAL (
        SELECT coalesce(sum(1 + (s.status <> 'pending')::integer + (s.status NOT IN ('pending', 'running'))::integer), 0) AS progress,
               coalesce(json_agg(json_build_object(
                   'number', s.number,
                   'name', s.name,
                   'status', s.status,
                   'exit_code', s.exit_code,
                   'started_at', s.started_at,
                   'finished_at', s.finished_at,
                   'log_offset', s.log_offset
               ) ORDER BY s.number) FILTER (WHERE s.attempt = j.attempt), '[]') AS list
        FROM   ci_steps s
        WHERE  s.job_id = j.id
    ) AS steps
    WHERE  j.run_id = r.id
) AS progress
WHERE  r.id = ANY (@runs::bigint[])
ORDER  BY r.id DESC

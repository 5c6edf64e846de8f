-- versions: what read calls the version of each run, without the rest.
SELECT r.id,
       r.version
       + (SELECT coalesce(sum(j.transitions), 0) FROM ci_jobs j WHERE j.run_id = r.id)
       + (SELECT coalesce(sum(1 + (s.status <> 'pending')::integer + (s.status NOT IN ('pending', 'running'))::integer), 0)
          FROM   ci_jobs j JOIN ci_steps s ON s.job_id = j.id
          WHERE  j.run_id = r.id) AS version
FROM   ci_runs r
WHERE  r.id = ANY (@runs::bigint[])

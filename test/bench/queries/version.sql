-- version: what watchers are told of a run's.
SELECT r.version
       + (SELECT sum(j.transitions) FROM ci_jobs j WHERE j.run_id = r.id)
       + (SELECT sum(1 + (s.status <> 'pending')::integer + (s.status NOT IN ('pending', 'running'))::integer)
          FROM ci_jobs j JOIN ci_steps s ON s.job_id = j.id WHERE j.run_id = r.id)
FROM   ci_runs r
WHERE  r.id = $1

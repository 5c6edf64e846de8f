-- failed_output: of the first jobs of a run that failed, where the failing step's output lies in the log.
SELECT j.id, j.attempt, r.log_day, failed.log_offset AS first,
       coalesce(
           (SELECT min(s.log_offset) FROM ci_steps s
            WHERE  s.job_id = j.id AND s.attempt = j.attempt AND s.number > failed.number),
           (SELECT max(l.byte_offset + l.byte_count) FROM ci_logs l
            WHERE  l.log_day = r.log_day AND l.job_id = j.id AND l.attempt = j.attempt),
           failed.log_offset) AS behind
FROM   ci_runs r
JOIN   ci_jobs j ON j.run_id = r.id
JOIN   LATERAL (
           SELECT s.number, s.log_offset FROM ci_steps s
           WHERE  s.job_id = j.id AND s.attempt = j.attempt AND s.status IN ('failure', 'error') AND s.log_offset IS NOT NULL
           ORDER  BY s.number LIMIT 1) AS failed ON true
WHERE  r.id = @run
ORDER  BY j.id
LIMIT  @jobs

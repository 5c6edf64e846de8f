-- place_of: whose job it is, its latest attempt, and the day under which its log lies.
SELECT j.run_id, j.attempt, r.log_day
FROM   ci_jobs j JOIN ci_runs r ON r.id = j.run_id
WHERE  j.id = @job

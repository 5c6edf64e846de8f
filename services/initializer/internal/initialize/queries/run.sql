-- run: what the run turned out to be about.
UPDATE ci_runs
SET    ref = nullif(@ref, ''), head_sha = @head_sha
WHERE  id = @run

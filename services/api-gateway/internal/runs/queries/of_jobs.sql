-- of_jobs: which runs have one of the jobs.
SELECT DISTINCT run_id FROM ci_jobs WHERE id = ANY (@jobs::bigint[])

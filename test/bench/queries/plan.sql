-- plan: what the initializer writes within the end of its claim: the row that asked becomes the job of the plan.
UPDATE ci_jobs
SET    workflow = '.ci/workflows/ci.yml', job_key = 'test', name = 'ci / test', admit_to = 'initialized',
       turn = ci_take_turns(repository, 'initialized', priority, 1)
WHERE  id = $1 AND claim_token = $2

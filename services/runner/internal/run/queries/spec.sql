-- spec: what the job is to do. Written by the initializer before the job can be claimed.
SELECT spec FROM ci_job_specs WHERE job_id = @job

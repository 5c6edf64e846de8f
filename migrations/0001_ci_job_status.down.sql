DROP TYPE ci_job_status;

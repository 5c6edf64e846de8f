DROP TRIGGER ci_jobs_notify_update ON ci_jobs;
DROP TRIGGER ci_jobs_notify_insert ON ci_jobs;
DROP TRIGGER ci_jobs_follow ON ci_jobs;
DROP TRIGGER ci_jobs_arrive ON ci_jobs;
DROP TRIGGER ci_jobs_stamp ON ci_jobs;
DROP FUNCTION ci_move_repository, ci_tally, ci_add_buckets, ci_bucket, ci_jobs_notify, ci_jobs_follow, ci_jobs_arrive, ci_report, ci_admit, ci_jobs_stamp,
              ci_take_turns(text, ci_job_status, integer, integer), ci_take_turns(text[], integer[], ci_job_status, integer);

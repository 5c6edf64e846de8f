DROP TABLE ci_redeliveries, ci_webhook_sources, ci_approvals, ci_reports, ci_logs, ci_source_chunks, ci_sources, ci_tally_runs, ci_tally_mark, ci_tallies, ci_attempts, ci_steps, ci_job_specs;
DROP FUNCTION ci_make_log_days;

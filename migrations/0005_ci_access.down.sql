DROP TRIGGER ci_approvals_audit ON ci_approvals;
DROP TRIGGER ci_repositories_audit ON ci_repositories;
DROP TRIGGER ci_jobs_audit_cancel ON ci_jobs;
DROP TRIGGER ci_runs_audit_cancel ON ci_runs;
DROP TRIGGER ci_runs_audit_insert ON ci_runs;
DROP TABLE ci_sessions, ci_tokens, audit_log;
DROP FUNCTION ci_audit_refused, ci_repositories_audit, ci_audit_row, ci_runs_audit_insert, ci_audit;

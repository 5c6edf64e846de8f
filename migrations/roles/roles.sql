-- The login role of each service and what it may do. Idempotent; run after each migration by `migrate roles`.
-- Columns are named where a service writes: what is not listed cannot be written by it. That a job moves only
-- along legal transitions, and only by the stage they belong to, is judged by table ci_transitions.

-- Two at once, also in two databases of one cluster, would trip over each other's CREATE ROLE.
SELECT pg_advisory_xact_lock(hashtext('lockstep roles'));

-- What all of them may. Setting lockstep.roles names them, separated by commas.
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY string_to_array(current_setting('lockstep.roles'), ',') LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I LOGIN', role);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL; -- the lock is per database, roles are not: another database was first
            END;
        END IF;
        EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), role);
        EXECUTE format('GRANT USAGE ON SCHEMA public TO %I', role);
        EXECUTE format('GRANT SELECT ON schema_migrations, ci_runs, ci_jobs, ci_attempts, ci_repositories TO %I', role);
    END LOOP;
END
$$;

-- Who claims jobs has a row in ci_workers and beats.
GRANT SELECT, INSERT (stage, name, slots, lease), UPDATE (beat_at, dead_at) ON ci_workers TO lockstep_initializer, lockstep_runner;
GRANT SELECT ON ci_workers TO lockstep_api_gateway;

-- api-gateway: accepts, cancels and shows, and knows who may.
GRANT INSERT (id, repository, event, ref, head_sha, base_ref, base_sha, pull_request, author, sender_id, title, trusted, principal, idempotency_key, request_hash, rerun_of),
      UPDATE (cancel_requested_at, cancelled_by, version) ON ci_runs TO lockstep_api_gateway;
GRANT USAGE ON SEQUENCE ci_runs_id_seq TO lockstep_api_gateway;
GRANT INSERT (run_id, repository, turn), UPDATE (status, cancel_requested_at, reason) ON ci_jobs TO lockstep_api_gateway;
GRANT SELECT ON ci_steps, ci_logs, ci_reports, ci_transitions, ci_turns, ci_tallies, audit_log TO lockstep_api_gateway;
GRANT INSERT (repository, max_running, weight, fork_policy, github_id, changed_by),
      UPDATE (max_running, weight, fork_policy, github_id, changed_by) ON ci_repositories TO lockstep_api_gateway;
GRANT SELECT, INSERT (repository, pull_request, head_sha, sender_id, author, title, run, delivery_id, asked_at, status),
      UPDATE (sender_id, author, title, run, delivery_id, asked_at, status, decided_by, decided_at, run_id) ON ci_approvals TO lockstep_api_gateway;
GRANT EXECUTE ON FUNCTION ci_move_repository TO lockstep_api_gateway;
GRANT SELECT, INSERT, UPDATE ON ci_webhook_sources TO lockstep_api_gateway;
GRANT SELECT, INSERT, UPDATE, DELETE ON ci_redeliveries TO lockstep_api_gateway;
GRANT SELECT, INSERT (name, hash, hint, scope, repository, created_by, expires_at), UPDATE (last_used_at, revoked_at, revoked_by) ON ci_tokens TO lockstep_api_gateway;
GRANT SELECT, DELETE, INSERT (hash, principal, token_id, github_id, expires_at), UPDATE (ended_at) ON ci_sessions TO lockstep_api_gateway;
GRANT EXECUTE ON FUNCTION ci_audit_refused TO lockstep_api_gateway;
GRANT EXECUTE ON FUNCTION ci_take_turns(text, ci_job_status, integer, integer), ci_take_turns(text[], integer[], ci_job_status, integer)
    TO lockstep_api_gateway, lockstep_initializer;

-- initializer: answers what a commit wants to run.
GRANT UPDATE (head_sha, ref, version) ON ci_runs TO lockstep_initializer;
GRANT INSERT (run_id, repository, status, turn, timeout, priority, admit_to, workflow, job_key, matrix_index, name, needs, fail_fast, reason),
      UPDATE (status, turn, worker_id, deadline_at, timeout, not_before, admit_to, failures, crashes, workflow, job_key, matrix_index, name, needs, fail_fast, reason)
    ON ci_jobs TO lockstep_initializer;
GRANT SELECT, INSERT ON ci_job_specs TO lockstep_initializer;
GRANT SELECT, INSERT, UPDATE, DELETE ON ci_sources, ci_source_chunks TO lockstep_initializer;

-- runner: runs and reports.
GRANT UPDATE (version) ON ci_runs TO lockstep_runner; -- to lock the row
GRANT UPDATE (status, worker_id, deadline_at, not_before, admit_to, failures, crashes, reason) ON ci_jobs TO lockstep_runner;
GRANT SELECT ON ci_job_specs, ci_sources, ci_source_chunks TO lockstep_runner;
GRANT SELECT, INSERT, UPDATE ON ci_steps TO lockstep_runner;
GRANT SELECT, INSERT ON ci_logs TO lockstep_runner;

-- github-notifier: tells GitHub.
GRANT SELECT, UPDATE (status, sent_version, claim_token, deadline_at, attempt, not_before, reason) ON ci_reports TO lockstep_github_notifier;

-- reaper: gives back what the dead hold.
GRANT UPDATE (version) ON ci_runs TO lockstep_reaper;
GRANT UPDATE (status, not_before, failures, crashes, reason) ON ci_jobs TO lockstep_reaper;
GRANT SELECT, DELETE, UPDATE (dead_at) ON ci_workers TO lockstep_reaper;
GRANT SELECT, DELETE ON ci_tallies TO lockstep_reaper;
GRANT EXECUTE ON FUNCTION ci_admit, ci_make_log_days, ci_tally TO lockstep_reaper;

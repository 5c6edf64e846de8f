-- enqueue: one run and its first job, `new`. No row: the idempotency key is taken.
WITH run AS (
    INSERT INTO ci_runs (repository, event, ref, head_sha, base_ref, base_sha, pull_request, author, title, trusted,
                         principal, idempotency_key, request_hash)
    VALUES (ci_repository_url(@repository), @event, nullif(@ref, ''), nullif(@head_sha, ''), nullif(@base_ref, ''), nullif(@base_sha, ''),
            nullif(@pull_request::integer, 0), nullif(@author, ''), nullif(@title, ''), @trusted,
            nullif(@principal, ''), nullif(@idempotency_key, ''), @request_hash)
    ON CONFLICT ON CONSTRAINT one_run_for_one_key DO NOTHING
    RETURNING id, repository
)
INSERT INTO ci_jobs (run_id, repository, turn)
SELECT id, repository, ci_take_turns(repository, 'new', 0, 1) FROM run
RETURNING run_id, id

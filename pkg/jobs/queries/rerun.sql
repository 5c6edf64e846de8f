-- rerun: the same commit, event and trust once more, as a run of its own. No row: there is no such run, or the
-- idempotency key is taken. The old run's row is locked before the repository's turn is taken: whoever ends a job locks in
-- that order too.
WITH run AS (
    INSERT INTO ci_runs (repository, event, ref, head_sha, base_ref, base_sha, pull_request, author, sender_id, title, trusted, rerun_of,
                         principal, idempotency_key, request_hash)
    SELECT repository, event, ref, head_sha, base_ref, base_sha, pull_request, author, nullif(@sender_id::bigint, 0), title, trusted, id,
           nullif(@principal, ''), nullif(@idempotency_key, ''), @request_hash
    FROM   ci_runs WHERE id = @run FOR KEY SHARE
    ON CONFLICT ON CONSTRAINT one_run_for_one_key DO NOTHING
    RETURNING id, repository
)
INSERT INTO ci_jobs (run_id, repository, turn)
SELECT id, repository, ci_take_turns(repository, 'new', 0, 1) FROM run
RETURNING run_id

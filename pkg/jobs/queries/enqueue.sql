-- enqueue: runs and their first jobs, `new`, in one statement. A run whose idempotency key is taken is left out of the
-- answer. Ids are drawn beforehand, in the order asked, to know which row is whose.
-- ORDER BY: two groups with the same keys would else wait for each other for ever.
WITH asked AS MATERIALIZED (
    SELECT nextval('ci_runs_id_seq') AS id, ci_repository_url(a.repository) AS repository, a.event, nullif(a.ref, '') AS ref,
           nullif(a.head_sha, '') AS head_sha, nullif(a.base_ref, '') AS base_ref, nullif(a.base_sha, '') AS base_sha,
           nullif(a.pull_request, 0) AS pull_request, nullif(a.author, '') AS author, nullif(a.sender_id, 0) AS sender_id,
           nullif(a.title, '') AS title, a.trusted,
           nullif(a.principal, '') AS principal, nullif(a.idempotency_key, '') AS idempotency_key, a.request_hash, a.place
    FROM   unnest(@repository::text[], @event::text[], @ref::text[], @head_sha::text[], @base_ref::text[], @base_sha::text[],
                  @pull_request::integer[], @author::text[], @sender_id::bigint[], @title::text[], @trusted::boolean[],
                  @principal::text[], @idempotency_key::text[], @request_hash::bytea[]) WITH ORDINALITY
           AS a (repository, event, ref, head_sha, base_ref, base_sha, pull_request, author, sender_id, title, trusted,
                 principal, idempotency_key, request_hash, place)
), run AS (
    INSERT INTO ci_runs (id, repository, event, ref, head_sha, base_ref, base_sha, pull_request, author, sender_id, title, trusted,
                         principal, idempotency_key, request_hash)
    OVERRIDING SYSTEM VALUE
    SELECT id, repository, event, ref, head_sha, base_ref, base_sha, pull_request, author, sender_id, title, trusted,
           principal, idempotency_key, request_hash
    FROM   asked
    ORDER  BY principal, idempotency_key, id
    ON CONFLICT ON CONSTRAINT one_run_for_one_key DO NOTHING
    RETURNING id, repository
), turn AS MATERIALIZED (
    SELECT t.* FROM (SELECT array_agg(repository) AS repositories, array_agg(n) AS counts
                     FROM  (SELECT repository::text, count(*)::integer AS n FROM run GROUP BY repository) AS counted) AS many,
           ci_take_turns(many.repositories, many.counts, 'new', 0) AS t
), job AS (
    INSERT INTO ci_jobs (run_id, repository, turn)
    SELECT run.id, run.repository, turn.first + (row_number() OVER (PARTITION BY run.repository ORDER BY run.id) - 1) * turn.step
    FROM   run JOIN turn USING (repository)
    ORDER  BY run.id
)
SELECT asked.place, run.id FROM run JOIN asked USING (id)

-- ask: the commit waits; or is stale at once, when a newer one of the pull request has asked before. A commit that came back
-- (pushed again, or its pull request reopened) waits again; one that was decided does not, nor does a delivery that comes again.
INSERT INTO ci_approvals AS old (repository, pull_request, head_sha, sender_id, author, title, run, delivery_id, asked_at, status)
SELECT @repository::text, @pull_request::integer, @head_sha::text, @sender_id::bigint, nullif(@author, ''), nullif(@title, ''), @run::jsonb, @delivery_id::text, @asked_at::timestamptz,
       CASE WHEN EXISTS (SELECT FROM ci_approvals newer
                         WHERE  newer.repository = @repository::text AND newer.pull_request = @pull_request::integer
                         AND    newer.head_sha <> @head_sha::text AND newer.asked_at > @asked_at::timestamptz)
            THEN 'stale' ELSE 'waiting' END
ON CONFLICT ON CONSTRAINT one_approval_for_one_commit DO UPDATE
SET    status = 'waiting', sender_id = EXCLUDED.sender_id, author = EXCLUDED.author, title = EXCLUDED.title, run = EXCLUDED.run,
       delivery_id = EXCLUDED.delivery_id, asked_at = EXCLUDED.asked_at
WHERE  old.status IN ('stale', 'withdrawn') AND EXCLUDED.status = 'waiting'
AND    old.delivery_id <> EXCLUDED.delivery_id AND old.asked_at <= EXCLUDED.asked_at

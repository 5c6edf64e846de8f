-- append: store one chunk, if the claim is still ours. A chunk that is there already was sent by us before, and its
-- reply got lost; held tells that from a lost claim. The job's row is read, not locked: a chunk that overtakes
-- the end of its claim lies under its own attempt and harms nobody.
WITH claim AS (
    SELECT id FROM ci_jobs WHERE id = @job AND claim_token = @token
), appended AS (
    INSERT INTO ci_logs (log_day, job_id, attempt, seq, byte_offset, byte_count, line_count, data)
    SELECT @log_day, id, @attempt, @seq, @byte_offset, @byte_count, @line_count, @data
    FROM   claim
    ON CONFLICT DO NOTHING
)
SELECT EXISTS (SELECT FROM claim) AS held

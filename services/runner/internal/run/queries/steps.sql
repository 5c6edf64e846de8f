-- steps: write the state of an attempt's steps, if the claim is still ours; held says so. Those that did not change are
-- left alone. Times come as ages, since only the database's clock counts, and the first one told stays. An age is on its
-- way for a while, not always as long: no step ends before it began.
WITH claim AS (
    SELECT id, clock_timestamp() AS now FROM ci_jobs WHERE id = @job AND claim_token = @token
), written AS (
    INSERT INTO ci_steps (job_id, attempt, number, name, status, exit_code, started_at, finished_at, log_offset)
    SELECT claim.id, @attempt, s.number, s.name, s.status, s.exit_code,
           claim.now - make_interval(secs => s.started_ago), claim.now - make_interval(secs => s.finished_ago),
           s.log_offset
    FROM   claim, unnest(@numbers::integer[], @names::text[], @statuses::text[], @exit_codes::integer[],
                         @started_ago::float8[], @finished_ago::float8[], @log_offsets::bigint[])
               AS s (number, name, status, exit_code, started_ago, finished_ago, log_offset)
    ON CONFLICT (job_id, attempt, number) DO UPDATE
    SET    status = EXCLUDED.status, exit_code = EXCLUDED.exit_code, log_offset = EXCLUDED.log_offset,
           started_at  = coalesce(ci_steps.started_at, EXCLUDED.started_at),
           finished_at = coalesce(ci_steps.finished_at, greatest(EXCLUDED.finished_at, ci_steps.started_at))
    WHERE  ci_steps.status <> EXCLUDED.status
)
SELECT EXISTS (SELECT FROM claim) AS held

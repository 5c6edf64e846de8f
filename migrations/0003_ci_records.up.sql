-- What is kept beside the hot row: the job's specification, its steps, attempts, source, log and reports.

-- What one job is to do (package pkg/jobs/spec). Read once, after the claim.
CREATE TABLE ci_job_specs (
    job_id bigint PRIMARY KEY REFERENCES ci_jobs (id) ON DELETE CASCADE,
    spec   jsonb NOT NULL
);

-- Steps as the runner reports them. They carry their attempt: a late write lands under its own.
CREATE TABLE ci_steps (
    job_id      bigint REFERENCES ci_jobs (id) ON DELETE CASCADE,
    attempt     integer,
    number      integer CONSTRAINT step_numbers_count_from_one CHECK (number >= 1),
    name        text NOT NULL,
    status      text NOT NULL DEFAULT 'pending'
                CONSTRAINT step_status_is_known CHECK (status IN ('pending', 'running', 'success', 'failure', 'cancelled', 'skipped', 'error')),
    exit_code   integer,      -- of the step's process; NULL when it had none
    started_at  timestamptz,
    finished_at timestamptz,
    log_offset  bigint,       -- first byte of its output in the attempt's log
    PRIMARY KEY (job_id, attempt, number)
) WITH (fillfactor = 70);

-- One row for each attempt that ended, written by the trigger in the same transaction: a foreign key could only say
-- again, at a fifth of the row's cost, what that trigger knows.
CREATE TABLE ci_attempts (
    job_id       bigint,
    attempt      integer,
    stage        ci_job_status NOT NULL,   -- the processing state of the stage
    worker_id    bigint,                   -- NULL: claimed by hand
    claim_token  uuid NOT NULL,
    claimable_at timestamptz,
    claimed_at   timestamptz,
    ended_at     timestamptz NOT NULL,
    outcome      ci_job_status NOT NULL,   -- the state it went to
    cause        text NOT NULL DEFAULT '',
    xid          xid8 NOT NULL DEFAULT pg_current_xact_id(), -- the transaction that wrote it: by it ci_tally knows what it has not counted
    PRIMARY KEY (job_id, attempt)
);
CREATE INDEX ci_attempts_xid ON ci_attempts (xid); -- costs a run 2 to 3 µs, about 1 % (docs/adr/0016)

-- Statistics: what ended within some minutes, hour or day, counted soon afterwards by ci_tally. Nothing that moves a job waits for
-- them. Durations are counted in buckets, each 10 % wider than the one before (ci_bucket): what is asked for of any time and
-- repository is then a sum of few rows, and its percentiles are within 5 % (docs/adr/0016).
CREATE TABLE ci_tallies (
    repository text COLLATE "C", -- '': all of them
    kind       text COLLATE "C" CONSTRAINT kind_of_tally_is_known CHECK (kind IN (
                   'wait',       -- of a job for a stage: from claimable to claimed
                   'work',       -- of a stage on a job: from claimed to the end of the claim
                   'job',        -- the claim that ended a planned job
                   'step',
                   'run')),      -- from created to finished
    minutes    integer CONSTRAINT tallies_are_of_known_lengths CHECK (minutes IN (5, 60, 1440)),
    begins_at  timestamptz,
    name       text COLLATE "C", -- of the stage (its processing state) or the job; '' for a run
    step       text COLLATE "C", -- '' but for a step
    outcome    text COLLATE "C", -- the state that it ended with; '' for a wait
    ended      bigint NOT NULL,  -- how many
    took_ms    double precision NOT NULL, -- all of them together
    buckets    jsonb NOT NULL,   -- how many of them in each bucket: {"<bucket>": <number>}
    PRIMARY KEY (repository, kind, minutes, begins_at, name, step, outcome)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05); -- rows grow
CREATE INDEX ci_tallies_begin ON ci_tallies (minutes, begins_at); -- for forgetting

-- How far ci_tally has come. One row.
CREATE TABLE ci_tally_mark (
    one   boolean PRIMARY KEY DEFAULT true CONSTRAINT there_is_one_mark CHECK (one),
    xid   xid8 NOT NULL DEFAULT '0',               -- attempts of transactions up to this one are counted
    since timestamptz NOT NULL DEFAULT '-infinity' -- what ended before is not to be counted again
);
INSERT INTO ci_tally_mark DEFAULT VALUES;

-- Runs that somebody has begun and that are not counted yet.
CREATE TABLE ci_tally_runs (run_id bigint PRIMARY KEY);

-- The packed tree of one commit (package pkg/jobs/source). Re-runs and the matrix share it. A source
-- without a sha256 is being stored; it is visible to its writer only.
CREATE TABLE ci_sources (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    repository  text NOT NULL,
    tree        text NOT NULL CONSTRAINT tree_is_a_full_object_id CHECK (tree ~ '^[0-9a-f]{40}$'),
    byte_count  bigint NOT NULL DEFAULT 0,
    chunk_count integer NOT NULL DEFAULT 0,
    sha256      bytea CONSTRAINT sha256_has_32_bytes CHECK (length(sha256) = 32),
    created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX ci_sources_complete ON ci_sources (repository, tree) WHERE sha256 IS NOT NULL;

CREATE TABLE ci_source_chunks (
    source_id bigint REFERENCES ci_sources (id) ON DELETE CASCADE,
    seq       integer,
    data      bytea NOT NULL CONSTRAINT chunk_is_at_most_one_mebibyte CHECK (length(data) <= 1048576),
    PRIMARY KEY (source_id, seq)
);
ALTER TABLE ci_source_chunks ALTER COLUMN data SET STORAGE EXTERNAL; -- it is compressed already

-- The log in chunks (package pkg/jobs/joblog). log_day is the run's day of creation, so that a resend after
-- midnight is the same key. No foreign key: it would lock the job's row for each chunk.
CREATE TABLE ci_logs (
    log_day     date,
    job_id      bigint,
    attempt     integer,
    seq         integer,
    byte_offset bigint NOT NULL,
    byte_count  integer NOT NULL,
    line_count  integer NOT NULL,
    data        bytea NOT NULL, -- zstd; bytea, because a test may print NUL or broken UTF-8
    PRIMARY KEY (log_day, job_id, attempt, seq)
) PARTITION BY RANGE (log_day);
ALTER TABLE ci_logs ALTER COLUMN data SET STORAGE EXTERNAL;

-- Should the reaper have been away for a fortnight, a log still has somewhere to go.
CREATE TABLE ci_logs_default PARTITION OF ci_logs DEFAULT;

-- ci_make_log_days: the partitions of the log from yesterday to `ahead` days from now. The reaper calls it; it
-- runs as the owner, since no service may create tables.
CREATE FUNCTION ci_make_log_days(ahead integer) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS
$$
DECLARE
    today date := (now() AT TIME ZONE 'UTC')::date;
    day   date;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('ci_make_log_days')); -- two reapers may come at once
    FOR i IN -1 .. least(ahead, 366) LOOP
        day := today + i;
        IF to_regclass('public.ci_logs_' || to_char(day, 'YYYYMMDD')) IS NULL
           AND NOT EXISTS (SELECT FROM ci_logs_default WHERE log_day = day) THEN
            EXECUTE format('CREATE TABLE %I PARTITION OF ci_logs FOR VALUES FROM (%L) TO (%L)',
                'ci_logs_' || to_char(day, 'YYYYMMDD'), day, day + 1);
        END IF;
    END LOOP;
END
$$;
REVOKE ALL ON FUNCTION ci_make_log_days FROM PUBLIC;
SELECT ci_make_log_days(14);

-- Pull requests of forks that wait for somebody to look at them (ci_repositories.fork_policy = 'ask'): one row for each commit
-- of each. What is approved is that commit and no other; the run is then made of what is kept here.
CREATE TABLE ci_approvals (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    repository   ci_repository NOT NULL,
    pull_request integer NOT NULL,
    head_sha     ci_commit NOT NULL,
    sender_id    bigint NOT NULL,      -- GitHub's number of the account that asked
    author       text,                 -- its name, for people
    title        text,
    run          jsonb NOT NULL,       -- the run that it would be
    delivery_id  text NOT NULL,        -- of the webhook: the run's idempotency key
    asked_at     timestamptz NOT NULL, -- by GitHub's clock: deliveries may come late and out of order
    status       text NOT NULL DEFAULT 'waiting'
                 CONSTRAINT approval_status_is_known CHECK (status IN ('waiting', 'approved', 'rejected', 'stale', 'withdrawn')),
    decided_by   text,
    decided_at   timestamptz,
    run_id       bigint REFERENCES ci_runs (id) ON DELETE SET NULL, -- what the approval made
    created_at   timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT one_approval_for_one_commit UNIQUE (repository, pull_request, head_sha),
    CONSTRAINT who_decides_is_named CHECK ((status IN ('approved', 'rejected')) = (decided_by IS NOT NULL AND decided_at IS NOT NULL))
);
CREATE UNIQUE INDEX ci_approvals_waiting ON ci_approvals (repository, pull_request) WHERE status = 'waiting'; -- an older commit's is stale
CREATE INDEX ci_approvals_list       ON ci_approvals (status, id);
CREATE INDEX ci_approvals_deliveries ON ci_approvals (delivery_id);
CREATE INDEX ci_approvals_runs       ON ci_approvals (run_id) WHERE run_id IS NOT NULL; -- for the foreign key

-- Where webhook deliveries that failed are looked for: an App or one hook. Whoever moves next_look looks: of several gateways one.
CREATE TABLE ci_webhook_sources (
    source    text PRIMARY KEY,
    next_look timestamptz NOT NULL,
    seen_to   timestamptz            -- GitHub's deliveries up to then have been looked at
);
-- Those that failed. That one is asked for again is written down first, so that nobody asks twice needlessly.
CREATE TABLE ci_redeliveries (
    source      text NOT NULL,
    delivery_id text,
    attempt_id  bigint NOT NULL,     -- GitHub's number of an attempt to deliver it
    failed_at   timestamptz NOT NULL,
    tries       integer NOT NULL DEFAULT 0,
    next_try    timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (source, delivery_id)
);

-- What GitHub is to be told: one row for each context of a commit, with the version wanted and the version sent.
CREATE TABLE ci_reports (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    repository   text NOT NULL,
    sha          text NOT NULL,
    context      text NOT NULL,
    run_id       bigint NOT NULL,
    job_id       bigint NOT NULL,
    state        text NOT NULL CONSTRAINT state_is_githubs CHECK (state IN ('pending', 'success', 'failure', 'error')),
    description  text NOT NULL,
    version      bigint NOT NULL DEFAULT 1,  -- what is wanted
    sent_version bigint NOT NULL DEFAULT 0,  -- what GitHub has acknowledged
    status       text NOT NULL DEFAULT 'pending'
                 CONSTRAINT report_status_is_known CHECK (status IN ('pending', 'notifying', 'notified', 'skipped')),
    attempt      integer NOT NULL DEFAULT 0, -- tries since the last change of version
    claim_token  uuid,
    deadline_at  timestamptz,                -- when another notifier may take it over
    not_before   timestamptz NOT NULL DEFAULT clock_timestamp(), -- end of a backoff; else since when it waits: who waits longest comes first
    reason       text NOT NULL DEFAULT '',   -- why it was skipped or is retried
    changed_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT one_report_for_one_context UNIQUE (repository, sha, context),
    CONSTRAINT held_reports_have_a_claim CHECK ((status = 'notifying') = (claim_token IS NOT NULL AND deadline_at IS NOT NULL)),
    CONSTRAINT notified_reports_are_up_to_date CHECK (status <> 'notified' OR sent_version = version)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX ci_reports_pending   ON ci_reports (not_before, id)  WHERE status = 'pending';
CREATE INDEX ci_reports_notifying ON ci_reports (deadline_at, id) WHERE status = 'notifying';

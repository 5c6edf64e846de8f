-- The queue: what was asked (ci_runs), the rows the stages move (ci_jobs), and who moves them.

-- ci_is_held: is a job in this state in somebody's hands? A later stage adds its processing state here.
CREATE FUNCTION ci_is_held(status ci_job_status) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN status IN ('initializing', 'running');

-- ci_is_final: has the job ended? Final states have no exit.
CREATE FUNCTION ci_is_final(status ci_job_status) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN status IN ('success', 'error', 'failure', 'cancelled', 'skipped');

-- ci_repository_url: the one spelling under which a repository is stored: no trailing slash, and no .git
-- behind an https URL. Paths of file URLs are left alone: `.git` may be the folder's real name.
CREATE FUNCTION ci_repository_url(url text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE
        WHEN url NOT LIKE 'https://%' THEN regexp_replace(btrim(url), '([^/])/+$', '\1')
        WHEN rtrim(btrim(url), '/') LIKE '%_.git' AND rtrim(btrim(url), '/') NOT LIKE '%/.git'
            THEN left(rtrim(btrim(url), '/'), -4)
        ELSE rtrim(btrim(url), '/')
    END;

-- Domains, not constraints of the tables: a constraint is checked anew with every update of a row, a domain when a
-- value comes in. For these two expressions that is half the price of moving a run.
CREATE DOMAIN ci_repository AS text CONSTRAINT repository_is_a_canonical_url CHECK (
    VALUE = ci_repository_url(VALUE) AND length(VALUE) <= 2000
    AND VALUE ~ '^(https://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[^/[:space:][:cntrl:]@:]+)+|file:///[^[:cntrl:]]+)$');
CREATE DOMAIN ci_commit AS text CONSTRAINT commit_is_a_full_id CHECK (VALUE ~ '^[0-9a-f]{40}$');

-- What is known of a repository, and its settings. A repository without a row has the defaults: no limit, weight 1, forks ask.
CREATE TABLE ci_repositories (
    repository  text PRIMARY KEY,
    max_running integer CONSTRAINT max_running_is_positive CHECK (max_running > 0), -- NULL: no limit
    weight      double precision NOT NULL DEFAULT 1
                CONSTRAINT weight_is_positive CHECK (weight >= 0.001 AND weight <= 1000),
    fork_policy text NOT NULL DEFAULT 'ask' -- what a fork's pull request does: run, ask first, or nothing
                CONSTRAINT fork_policy_is_known CHECK (fork_policy IN ('run', 'ask', 'ignore')),
    github_id   bigint,      -- GitHub's number of it, learned from its first delivery: a name can be given to another repository
    changed_by  text -- who makes this change; a trigger moves it into audit_log
);
CREATE INDEX ci_repositories_limited ON ci_repositories (repository) WHERE max_running IS NOT NULL;

-- The last turn that a repository was given in each claimable state (fairness, see ci_take_turns).
CREATE TABLE ci_turns (
    repository text,
    status     ci_job_status,
    turn       double precision NOT NULL,
    PRIMARY KEY (repository, status)
);
CREATE INDEX ci_turns_highest ON ci_turns (status, turn);

-- A run: everything done for one event on one commit.
CREATE TABLE ci_runs (
    id                  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    repository          ci_repository NOT NULL,
    event               text NOT NULL,
    ref                 text,     -- refs/heads/…; what was asked for until the initializer resolves it; NULL: default branch
    head_sha            ci_commit,   -- the one commit of this run; NULL until known
    base_ref            text,     -- of a pull request: the branch it wants to go to, refs/heads/…
    base_sha            ci_commit,   -- what path filters compare with; NULL: nothing to compare with
    pull_request        integer,
    author              text,
    sender_id           bigint,   -- GitHub's number of the account that asked, which a commit's author cannot choose; NULL: not GitHub
    title               text,
    trusted             boolean NOT NULL DEFAULT true,
    principal           text,     -- who asked for it, and whose idempotency key it is: 'github', 'token:7' …; NULL: a login of the database
    idempotency_key     text,
    request_hash        bytea,    -- of the request that used the key, to notice the same key on another one
    rerun_of            bigint REFERENCES ci_runs (id) ON DELETE SET NULL,
    status              ci_job_status NOT NULL DEFAULT 'new',
    version             bigint NOT NULL DEFAULT 1, -- with the sum of its jobs' transitions: rises whenever a watcher might see something new
    log_day             date NOT NULL DEFAULT (now() AT TIME ZONE 'UTC')::date,
    cancel_requested_at timestamptz,
    cancelled_by        text,     -- who asked for that, like principal
    created_at          timestamptz NOT NULL DEFAULT now(),
    finished_at         timestamptz,
    CONSTRAINT event_is_known CHECK (event IN ('push', 'pull_request', 'workflow_dispatch', 'manual')),
    CONSTRAINT idempotency_key_has_a_principal CHECK (principal IS NOT NULL OR idempotency_key IS NULL),
    CONSTRAINT one_run_for_one_key UNIQUE (principal, idempotency_key),
    CONSTRAINT run_status_is_a_runs_status CHECK (status IN ('new', 'running') OR ci_is_final(status)),
    CONSTRAINT finished_runs_have_an_end CHECK (ci_is_final(status) = (finished_at IS NOT NULL))
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0);

-- For who lists one repository's runs.
CREATE INDEX ci_runs_of_repository ON ci_runs (repository, id);

-- A job: one job of a workflow, moved by the stages. A `new` job is a question: what does this commit
-- want to run? The initializer's answer turns it into the first job of the plan.
CREATE TABLE ci_jobs (
    id                  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id              bigint NOT NULL REFERENCES ci_runs (id) ON DELETE CASCADE, -- an INSERT without one gets a run from the trigger
    repository          text NOT NULL,
    status              ci_job_status NOT NULL DEFAULT 'new',
    previous_status     ci_job_status,      -- the state before the last UPDATE of this row, by the trigger
    status_change_time  timestamptz NOT NULL DEFAULT clock_timestamp(), -- by the trigger, on every transition
    transitions         integer NOT NULL DEFAULT 0, -- counts changes of status; by the trigger
    priority            integer NOT NULL DEFAULT 0,
    turn                double precision NOT NULL,  -- who comes first within a priority; by the trigger when absent
    attempt             integer NOT NULL DEFAULT 0, -- counts claims over all stages; only ever rises
    failures            integer NOT NULL DEFAULT 0, -- infrastructure failures of this stage
    crashes             integer NOT NULL DEFAULT 0, -- workers of this stage that died with it
    claim_token         uuid,               -- the fence: every later write of a claim names it
    ended_token         uuid,               -- the token of the claim that ended last
    worker_id           bigint,             -- whose claim it is; NULL when claimed by hand
    claimable_at        timestamptz,        -- since when the current or last claim could have been made
    claimed_at          timestamptz,
    deadline_at         timestamptz,        -- when the claim is ended even if its worker beats
    timeout             interval NOT NULL DEFAULT '15 minutes', -- what a claim may take
    not_before          timestamptz,        -- end of a backoff
    admit_to            ci_job_status NOT NULL DEFAULT 'initialized', -- the claimable state that a blocked, released or reaped job goes to
    cancel_requested_at timestamptz,
    workflow            text NOT NULL DEFAULT '', -- path of the workflow file; '' until planned
    job_key             text NOT NULL DEFAULT '', -- the job's key in that file; '' until planned
    matrix_index        integer NOT NULL DEFAULT 0,
    name                text NOT NULL DEFAULT 'initialize',
    needs               text[] NOT NULL DEFAULT '{}', -- job keys of the same workflow
    fail_fast           boolean NOT NULL DEFAULT false, -- a failure cancels the other jobs of this matrix
    reason              text NOT NULL DEFAULT '', -- why it waits, or why it ended so, for people
    CONSTRAINT one_job_for_one_place_in_the_plan UNIQUE (run_id, workflow, job_key, matrix_index),
    CONSTRAINT held_jobs_have_a_claim CHECK (ci_is_held(status) = (claim_token IS NOT NULL)),
    CONSTRAINT only_held_jobs_have_a_deadline CHECK (deadline_at IS NULL OR claim_token IS NOT NULL),
    CONSTRAINT timeout_is_positive CHECK (timeout > '0'),
    CONSTRAINT jobs_are_admitted_to_a_claimable_state CHECK (NOT ci_is_held(admit_to) AND NOT ci_is_final(admit_to) AND admit_to <> 'blocked')
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0);

-- One partial index per claimable state: finished rows cost a claim nothing, however many there are.
CREATE INDEX ci_jobs_new         ON ci_jobs (priority DESC, turn, id) WHERE status = 'new';
CREATE INDEX ci_jobs_initialized ON ci_jobs (priority DESC, turn, id) WHERE status = 'initialized';
-- For beats and the reaper.
CREATE INDEX ci_jobs_held ON ci_jobs (worker_id) WHERE claim_token IS NOT NULL;
-- For admission: what waits and what counts against a repository's limit. States of later stages count by themselves.
CREATE INDEX ci_jobs_admission ON ci_jobs (repository, status)
    WHERE status NOT IN ('new', 'initializing', 'success', 'error', 'failure', 'cancelled', 'skipped');

-- A worker: one process of one stage. Its beat holds all its claims.
CREATE TABLE ci_workers (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    stage      text NOT NULL,
    name       text NOT NULL,          -- host and process id, for people
    slots      integer NOT NULL CONSTRAINT slots_are_positive CHECK (slots > 0),
    lease      interval NOT NULL CONSTRAINT lease_is_positive CHECK (lease > '0'),
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    beat_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    dead_at    timestamptz             -- set once, by the reaper or by the worker as it leaves
) WITH (fillfactor = 50);
CREATE INDEX ci_workers_alive ON ci_workers (id) WHERE dead_at IS NULL;

-- The legal transitions of a job, and who may make them. Owner and superuser may make each of them;
-- everything else is refused. from_status NULL: an INSERT.
CREATE TABLE ci_transitions (
    from_status ci_job_status,
    to_status   ci_job_status NOT NULL,
    role        text NOT NULL,
    UNIQUE NULLS NOT DISTINCT (from_status, to_status, role)
);
INSERT INTO ci_transitions (from_status, to_status, role)
SELECT CASE f WHEN '' THEN NULL ELSE f::ci_job_status END, t::ci_job_status, 'lockstep_' || r
FROM   (VALUES
    ('api_gateway',  '',             '{new}'),
    ('api_gateway',  'new',          '{cancelled}'),
    ('api_gateway',  'initialized',  '{cancelled}'),
    ('api_gateway',  'blocked',      '{cancelled}'),
    ('initializer',  'new',          '{initializing}'),
    ('initializer',  '',             '{initialized,blocked,failure}'),
    ('initializer',  'initializing', '{initialized,blocked,failure,error,skipped,cancelled,new}'),
    ('runner',       'initialized',  '{running}'),
    ('runner',       'running',      '{success,failure,error,cancelled,initialized,blocked}'),
    ('reaper',       'new',          '{cancelled}'),
    ('reaper',       'initializing', '{new,error,cancelled}'),
    ('reaper',       'initialized',  '{cancelled}'),
    ('reaper',       'running',      '{initialized,error,cancelled}'),
    ('reaper',       'blocked',      '{new,initialized,error,skipped,cancelled}')
) AS rule (r, f, ts), unnest(ts::text[]) AS t;

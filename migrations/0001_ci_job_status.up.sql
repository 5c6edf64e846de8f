-- The states of a job and, as far as they apply, of a run. Labels have a file of their own, because a
-- new enum label cannot be used in the transaction that adds it (PostgreSQL manual, ALTER TYPE).
CREATE TYPE ci_job_status AS ENUM (
    'new',           -- accepted; nobody has read the commit yet
    'initializing',  -- held by an initializer
    'initialized',   -- planned and claimable by a runner
    'running',       -- held by a runner
    'success',       -- final: the user's steps passed
    'error',         -- final: we failed, not the user's steps
    'blocked',       -- waits for its needs, a limit or the end of a backoff
    'failure',       -- final: the user's steps, workflow or repository failed
    'cancelled',     -- final: somebody asked for it
    'skipped'        -- final: there was nothing to do, or a need did not succeed
);

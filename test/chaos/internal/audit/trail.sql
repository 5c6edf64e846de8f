-- trail: what happened, written down by triggers in the transaction in which it happened. No service has a right to it,
-- so that none can touch it. Needs track_commit_timestamp = on.
CREATE SCHEMA chaos;

-- Each process of a service logs in under a name of its own and then takes the service's role.
CREATE TABLE chaos.logins (
    login   text PRIMARY KEY,
    service text NOT NULL
);

-- Every change of status, claim token or attempt. The order of seq is, for one job, that of the commits: whoever writes
-- a row here holds the lock on the job.
CREATE TABLE chaos.moves (
    seq    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    login  text NOT NULL DEFAULT session_user,
    pid    integer NOT NULL DEFAULT pg_backend_pid(),
    before jsonb, -- the job; NULL: it was inserted
    after  jsonb NOT NULL
);
CREATE FUNCTION chaos.note_move() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO chaos.moves (after) VALUES (to_jsonb(NEW));
    ELSIF OLD.status <> NEW.status OR OLD.claim_token IS DISTINCT FROM NEW.claim_token OR OLD.attempt <> NEW.attempt THEN
        INSERT INTO chaos.moves (before, after) VALUES (to_jsonb(OLD), to_jsonb(NEW));
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER chaos_note_move AFTER INSERT OR UPDATE ON public.ci_jobs FOR EACH ROW EXECUTE FUNCTION chaos.note_move();

-- Workers that began, and that were marked dead or left: how long the beat had been silent by then, in seconds.
CREATE TABLE chaos.workers (
    seq    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    login  text NOT NULL DEFAULT session_user,
    worker bigint NOT NULL,
    dead   boolean NOT NULL,
    silent double precision NOT NULL,
    lease  double precision NOT NULL
);
CREATE FUNCTION chaos.note_worker() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$$
BEGIN
    IF TG_OP = 'INSERT' OR (OLD.dead_at IS NULL AND NEW.dead_at IS NOT NULL) THEN
        INSERT INTO chaos.workers (worker, dead, silent, lease)
        VALUES (NEW.id, NEW.dead_at IS NOT NULL, extract(epoch FROM clock_timestamp() - NEW.beat_at), extract(epoch FROM NEW.lease));
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER chaos_note_worker AFTER INSERT OR UPDATE ON public.ci_workers FOR EACH ROW EXECUTE FUNCTION chaos.note_worker();

-- Rows of steps and logs. late: for how many seconds, as this row is written, the claim that it is for has been over
-- (by the time of that commit); NULL: it is the job's claim.
CREATE TABLE chaos.writes (
    seq     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    login   text NOT NULL DEFAULT session_user,
    what    text NOT NULL,
    job     bigint NOT NULL,
    attempt integer NOT NULL,
    number  integer NOT NULL,
    digest  text NOT NULL, -- of a chunk of log; the status of a step
    late    double precision
);
CREATE FUNCTION chaos.note_write() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$$
DECLARE
    v_late double precision;
BEGIN
    SELECT extract(epoch FROM clock_timestamp() - pg_xact_commit_timestamp(j.xmin)) INTO v_late
    FROM   public.ci_jobs j
    WHERE  j.id = NEW.job_id AND (j.claim_token IS NULL OR j.attempt <> NEW.attempt);
    IF TG_TABLE_NAME LIKE 'ci_logs%' THEN
        INSERT INTO chaos.writes (what, job, attempt, number, digest, late)
        VALUES ('log', NEW.job_id, NEW.attempt, NEW.seq, md5(NEW.data), v_late);
    ELSE
        INSERT INTO chaos.writes (what, job, attempt, number, digest, late)
        VALUES ('step', NEW.job_id, NEW.attempt, NEW.number, NEW.status, v_late);
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER chaos_note_step AFTER INSERT OR UPDATE ON public.ci_steps FOR EACH ROW EXECUTE FUNCTION chaos.note_write();
CREATE TRIGGER chaos_note_log AFTER INSERT OR UPDATE ON public.ci_logs FOR EACH ROW EXECUTE FUNCTION chaos.note_write();

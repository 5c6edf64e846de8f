-- The rules of the queue. They hold for every writer: our services, psql, and whoever comes next.

-- ci_take_turns: hand turns of a claimable state to repositories, so many to each, and return the first of each; the
-- others follow at step = 1/weight. A turn is max(lowest waiting turn, the repository's last + 1/weight), so that one
-- repository's thousand jobs delay another's one by at most one free slot. Nothing waits: the highest turn ever given
-- counts, else a repository that has been busy would stand behind all of one that has not.
CREATE FUNCTION ci_take_turns(p_repositories text[], p_counts integer[], p_status ci_job_status, p_priority integer)
    RETURNS TABLE (repository text, first double precision, step double precision)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS
$$
#variable_conflict use_column
DECLARE
    v_lowest double precision;
BEGIN
    -- The state as a literal: a parameter cannot match the partial index of the state. A plan that is kept costs a
    -- tenth of one that is made each time, so the two states that every job passes have one each.
    IF p_status = 'new' THEN
        SELECT turn INTO v_lowest FROM ci_jobs WHERE status = 'new' AND priority = p_priority ORDER BY priority DESC, turn, id LIMIT 1;
    ELSIF p_status = 'initialized' THEN
        SELECT turn INTO v_lowest FROM ci_jobs WHERE status = 'initialized' AND priority = p_priority ORDER BY priority DESC, turn, id LIMIT 1;
    ELSE
        EXECUTE format('SELECT turn FROM ci_jobs WHERE status = %L AND priority = $1 ORDER BY priority DESC, turn, id LIMIT 1', p_status)
        INTO v_lowest USING p_priority;
    END IF;
    IF v_lowest IS NULL THEN
        SELECT coalesce(max(turn), 0) INTO v_lowest FROM ci_turns WHERE status = p_status;
    END IF;

    RETURN QUERY
    WITH asked AS MATERIALIZED (
        SELECT a.repository, a.n, coalesce(1 / p.weight, 1) AS step
        FROM   unnest(p_repositories, p_counts) AS a (repository, n) LEFT JOIN ci_repositories p USING (repository)
    ), taken AS (
        INSERT INTO ci_turns AS t (repository, status, turn)
        SELECT repository, p_status, v_lowest + (n - 1) * step FROM asked
        ORDER  BY repository -- two takers of the same ones would else wait for each other for ever
        ON CONFLICT (repository, status) DO UPDATE
        SET    turn = EXCLUDED.turn + greatest(0, t.turn - v_lowest + (SELECT a.step FROM asked a WHERE a.repository = t.repository))
        RETURNING t.repository, t.turn
    )
    SELECT repository, taken.turn - (n - 1) * step, step FROM asked JOIN taken USING (repository);
END
$$;
REVOKE ALL ON FUNCTION ci_take_turns(text[], integer[], ci_job_status, integer) FROM PUBLIC;

-- ci_take_turns: the same for one repository.
CREATE FUNCTION ci_take_turns(p_repository text, p_status ci_job_status, p_priority integer, n integer) RETURNS double precision
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS
$$
BEGIN
    RETURN (SELECT first FROM ci_take_turns(ARRAY[p_repository], ARRAY[n], p_status, p_priority));
END
$$;
REVOKE ALL ON FUNCTION ci_take_turns(text, ci_job_status, integer, integer) FROM PUBLIC;

-- ci_jobs_stamp: what each row carries about its own transition, whoever makes it.
CREATE FUNCTION ci_jobs_stamp() RETURNS trigger
    LANGUAGE plpgsql AS
$$
BEGIN
    IF TG_OP = 'INSERT' THEN
        NEW.previous_status    := NULL;
        NEW.status_change_time := clock_timestamp();
        NEW.transitions        := 0;
        NEW.attempt            := 0;
        IF NEW.run_id IS NULL THEN -- by hand: a run of the default branch
            NEW.repository := ci_repository_url(NEW.repository);
            INSERT INTO ci_runs (repository, event) VALUES (NEW.repository, 'manual') RETURNING id INTO NEW.run_id;
        END IF;
        IF NEW.turn IS NULL AND (NEW.status = 'blocked' OR ci_is_final(NEW.status)) THEN
            NEW.turn := 0; -- its turn is given when it becomes claimable, if ever
        ELSIF NEW.turn IS NULL THEN
            NEW.turn := ci_take_turns(NEW.repository, NEW.status, NEW.priority, 1);
        END IF;
        RETURN NEW;
    END IF;

    NEW.previous_status := OLD.status;
    IF NEW.status = OLD.status THEN -- no transition: the marks of the last one stay
        NEW.status_change_time := OLD.status_change_time;
        NEW.transitions        := OLD.transitions;
        NEW.attempt            := OLD.attempt;
        NEW.claim_token        := OLD.claim_token;
        RETURN NEW;
    END IF;

    NEW.status_change_time := clock_timestamp();
    NEW.transitions        := OLD.transitions + 1;
    IF ci_is_held(NEW.status) THEN
        NEW.attempt      := OLD.attempt + 1;
        IF NOT (OLD.status = 'blocked' OR ci_is_held(OLD.status) OR ci_is_final(OLD.status)) THEN
            NEW.admit_to := OLD.status; -- where it goes back to; anything else is refused below, with a clearer word
        END IF;
        NEW.claim_token  := gen_random_uuid();
        NEW.claimable_at := OLD.status_change_time;
        NEW.claimed_at   := NEW.status_change_time;
        IF NEW.deadline_at IS NULL THEN -- a claim by hand: it is not the last worker's
            NEW.worker_id := NULL;
        END IF;
    ELSE
        NEW.attempt     := OLD.attempt;
        NEW.ended_token := coalesce(OLD.claim_token, OLD.ended_token);
        NEW.claim_token := NULL;
        NEW.deadline_at := NULL;
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER ci_jobs_stamp BEFORE INSERT OR UPDATE ON ci_jobs
    FOR EACH ROW EXECUTE FUNCTION ci_jobs_stamp();

-- ci_admit: make blocked jobs of these runs claimable, and those that a limit of the same repositories held back,
-- where needs, backoff and limit allow. The repositories with a limit are locked in order: two admissions at once
-- would each see the other's slot free. A row that somebody else is changing is skipped, since he may be waiting for
-- that lock; he comes by here himself, and else the reaper does.
CREATE FUNCTION ci_admit(p_runs bigint[]) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS
$$
DECLARE
    v_limited text[];
    v_group   record;
    v_turn    double precision;
BEGIN
    SELECT array_agg(repository) INTO v_limited
    FROM  (SELECT p.repository FROM ci_repositories p
           WHERE  p.max_running IS NOT NULL
           AND    p.repository IN (SELECT r.repository FROM ci_runs r WHERE r.id = ANY (p_runs))
           ORDER  BY p.repository FOR UPDATE) AS locked;

    FOR v_group IN
        WITH waiting AS MATERIALIZED (
            SELECT b.id, b.repository, b.admit_to, b.priority
            FROM   ci_jobs b
            WHERE  (b.run_id = ANY (p_runs) OR b.repository = ANY (v_limited))
            AND    b.status = 'blocked'
            AND    b.status NOT IN ('new', 'initializing', 'success', 'error', 'failure', 'cancelled', 'skipped') -- the index's words
            AND    (b.not_before IS NULL OR b.not_before <= clock_timestamp())
            AND    NOT EXISTS (
                       SELECT FROM ci_jobs need
                       WHERE  need.run_id = b.run_id AND need.workflow = b.workflow
                       AND    need.job_key = ANY (b.needs) AND need.status <> 'success')
            FOR NO KEY UPDATE SKIP LOCKED
        ), ready AS (
            SELECT *, row_number() OVER (PARTITION BY repository, admit_to = 'new' ORDER BY priority DESC, id) AS place FROM waiting
        )
        SELECT repository, admit_to, priority, coalesce(1 / max(weight), 1) AS step,
               array_agg(ready.id ORDER BY ready.id) AS ids, count(*)::integer AS n
        FROM   ready LEFT JOIN ci_repositories USING (repository)
        WHERE  max_running IS NULL OR admit_to = 'new' -- reading a commit is not running it
        OR     place <= max_running - (
                   SELECT count(*) FROM ci_jobs busy
                   WHERE  busy.repository = ready.repository AND busy.status <> 'blocked'
                   AND    busy.status NOT IN ('new', 'initializing', 'success', 'error', 'failure', 'cancelled', 'skipped'))
        GROUP  BY repository, admit_to, priority
        ORDER  BY repository, admit_to, priority
    LOOP
        -- In a statement of its own: within the UPDATE below a plan may take the turns once for each row.
        v_turn := ci_take_turns(v_group.repository, v_group.admit_to, v_group.priority, v_group.n);
        UPDATE ci_jobs j
        SET    status = j.admit_to, not_before = NULL, reason = '', turn = v_turn + (o.place - 1) * v_group.step
        FROM   unnest(v_group.ids) WITH ORDINALITY AS o (id, place)
        WHERE  j.id = o.id AND j.status = 'blocked';
    END LOOP;
END
$$;
REVOKE ALL ON FUNCTION ci_admit FROM PUBLIC;

-- ci_jobs_follow: what follows from a transition, in its own transaction. Refuse what must not be; write down the
-- attempt that ended; end or admit dependents; move the run; renew the reports. The one path that ends a job:
-- worker, reaper, cancel and psql all come through here. A statement moves up to 500 jobs: what none of them asks for is
-- not looked for.
CREATE FUNCTION ci_jobs_follow() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS
$$
DECLARE
    -- Who asks: the login, or what it SET ROLE to. (Within this function current_user is the owner.)
    v_actor     text := CASE current_setting('role') WHEN 'none' THEN session_user ELSE current_setting('role') END;
    v_free      boolean := pg_trigger_depth() > 1 OR pg_has_role(v_actor, current_user, 'MEMBER');
    v_bad       record;
    v_runs      bigint[];
    v_fail_fast boolean;
    v_broken    boolean; -- somebody ended without success: his dependents will not run
    v_blocked   boolean;
BEGIN
    SELECT g.id, g.previous_status, g.status,
           EXISTS (SELECT FROM ci_transitions t WHERE t.from_status = g.previous_status AND t.to_status = g.status) AS legal
    INTO   v_bad
    FROM  (SELECT c.previous_status, c.status, min(c.id) AS id FROM changed c
           WHERE  c.previous_status <> c.status GROUP BY c.previous_status, c.status) AS g
    WHERE  NOT EXISTS (SELECT FROM ci_transitions t
                       WHERE  t.from_status = g.previous_status AND t.to_status = g.status AND (v_free OR t.role = v_actor))
    LIMIT  1;
    IF FOUND THEN
        IF v_bad.legal THEN
            RAISE EXCEPTION 'job %: role "%" may not move a job from % to %', v_bad.id, v_actor, v_bad.previous_status, v_bad.status
                USING ERRCODE = 'insufficient_privilege', HINT = 'Table ci_transitions lists who may make which transition.';
        END IF;
        RAISE EXCEPTION 'job %: illegal transition from % to %', v_bad.id, v_bad.previous_status, v_bad.status
            USING ERRCODE = 'check_violation', CONSTRAINT = 'ci_transitions', TABLE = 'ci_jobs',
                  HINT = 'Table ci_transitions lists the legal transitions; final states have no exit.';
    END IF;

    INSERT INTO ci_attempts (job_id, attempt, stage, worker_id, claim_token, claimable_at, claimed_at, ended_at, outcome, cause)
    SELECT c.id, c.attempt, c.previous_status, c.worker_id, c.ended_token, c.claimable_at, c.claimed_at, c.status_change_time, c.status, c.reason
    FROM   changed c
    WHERE  c.previous_status <> c.status AND ci_is_held(c.previous_status);

    -- Claims and admissions concern nobody else: they take no lock on the run. A claim then never waits for one, and an
    -- admission, which may reach into other runs of the repository, never locks runs out of order. Nor has a job that goes
    -- on without a plan anything to tell.
    SELECT array_agg(DISTINCT c.run_id), bool_or(c.fail_fast AND c.status IN ('failure', 'error')),
           bool_or(ci_is_final(c.status) AND c.status <> 'success')
    INTO   v_runs, v_fail_fast, v_broken
    FROM   changed c
    WHERE  c.previous_status <> c.status AND NOT ci_is_held(c.status)
    AND    (c.previous_status <> 'blocked' OR ci_is_final(c.status))
    AND    (c.job_key <> '' OR ci_is_final(c.status) OR c.status = 'blocked');
    IF v_runs IS NULL THEN
        RETURN NULL;
    END IF;

    -- In a statement of its own: two parents finishing at once would otherwise each see the other unfinished, and
    -- the child would never be released.
    PERFORM FROM ci_runs WHERE id = ANY (v_runs) ORDER BY id FOR UPDATE;

    IF v_fail_fast THEN -- the other jobs of a failed job's matrix
        UPDATE ci_jobs s
        SET    status = CASE WHEN ci_is_held(s.status) THEN s.status ELSE 'cancelled' END,
               cancel_requested_at = clock_timestamp(),
               reason = format('cancelled by fail-fast: "%s" ended with %s', c.name, c.status)
        FROM   changed c
        WHERE  c.fail_fast AND c.status IN ('failure', 'error') AND c.previous_status <> c.status
        AND    s.run_id = c.run_id AND s.workflow = c.workflow AND s.job_key = c.job_key AND s.id <> c.id
        AND    NOT ci_is_final(s.status) AND s.cancel_requested_at IS NULL;
    END IF;
    IF v_broken THEN -- in turn this trigger skips what needs the skipped
        UPDATE ci_jobs b
        SET    status = 'skipped', reason = format('needs "%s", which ended with %s', need.name, need.status)
        FROM   ci_jobs need
        WHERE  b.run_id = ANY (v_runs) AND b.status = 'blocked'
        AND    need.run_id = b.run_id AND need.workflow = b.workflow AND need.job_key = ANY (b.needs)
        AND    ci_is_final(need.status) AND need.status <> 'success';
    END IF;
    PERFORM ci_report(array_agg(c.id)) FROM changed c WHERE c.previous_status <> c.status AND NOT ci_is_held(c.status);

    IF pg_trigger_depth() > 1 THEN -- the rest is done once, by the statement that began it, for these runs too
        RETURN NULL;
    END IF;

    WITH verdict AS (
        SELECT run_id, bool_or(status = 'blocked') AS blocked,
               CASE WHEN bool_or(NOT ci_is_final(status))
                         THEN CASE WHEN bool_and(job_key = '') THEN 'new' ELSE 'running' END
                    WHEN bool_or(status = 'error')     THEN 'error'
                    WHEN bool_or(status = 'failure')   THEN 'failure'
                    WHEN bool_or(status = 'cancelled') THEN 'cancelled'
                    WHEN bool_or(status = 'success')   THEN 'success'
                    ELSE 'skipped'
               END::ci_job_status AS status
        FROM   ci_jobs WHERE run_id = ANY (v_runs) GROUP BY run_id
    ), moved AS (
        UPDATE ci_runs r
        SET    version = r.version + 1, status = v.status,
               finished_at = CASE WHEN ci_is_final(v.status) THEN clock_timestamp() END
        FROM   verdict v
        WHERE  r.id = v.run_id AND r.status <> v.status
    )
    SELECT bool_or(blocked) INTO v_blocked FROM verdict;
    IF v_blocked OR EXISTS (SELECT FROM ci_repositories WHERE max_running IS NOT NULL) THEN
        PERFORM ci_admit(v_runs);
    END IF;
    RETURN NULL;
END
$$;

-- ci_jobs_arrive: an INSERT must be legal too, and is reported. The run moves when the initializer's answer is
-- complete, with the row it holds.
CREATE FUNCTION ci_jobs_arrive() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS
$$
DECLARE
    v_actor text := CASE current_setting('role') WHEN 'none' THEN session_user ELSE current_setting('role') END;
    v_free  boolean := pg_has_role(v_actor, current_user, 'MEMBER');
    v_bad   record;
BEGIN
    SELECT g.id, g.status INTO v_bad
    FROM  (SELECT c.status, min(c.id) AS id FROM changed c GROUP BY c.status) AS g
    WHERE  NOT EXISTS (SELECT FROM ci_transitions t
                       WHERE  t.from_status IS NULL AND t.to_status = g.status AND (v_free OR t.role = v_actor))
    LIMIT  1;
    IF FOUND THEN
        RAISE EXCEPTION 'job %: role "%" may not insert a job that is %', v_bad.id, v_actor, v_bad.status
            USING ERRCODE = 'check_violation', CONSTRAINT = 'ci_transitions', TABLE = 'ci_jobs',
                  HINT = 'A job begins as new; table ci_transitions lists the rest (from_status NULL).';
    END IF;
    PERFORM ci_report(array_agg(c.id)) FROM changed c WHERE c.status <> 'new' HAVING count(*) > 0;
    RETURN NULL;
END
$$;

-- ci_report: renew what GitHub is to be told about these jobs. A job whose commit is not known, or that is not planned
-- yet, has nothing to tell. A later run of the same commit takes the context over.
CREATE FUNCTION ci_report(p_jobs bigint[]) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS
$$ -- plpgsql keeps the plan
BEGIN
    INSERT INTO ci_reports AS old (repository, sha, context, run_id, job_id, state, description)
    SELECT r.repository, r.head_sha, 'lockstep/' || j.name, j.run_id, j.id,
           CASE j.status WHEN 'success' THEN 'success'
                         -- Nothing matched the event: fine. A need did not succeed: a check that somebody requires must not look green.
                         WHEN 'skipped' THEN CASE WHEN j.job_key = '' THEN 'success' ELSE 'failure' END
                         WHEN 'failure' THEN 'failure'
                         WHEN 'error' THEN 'error' WHEN 'cancelled' THEN 'error'
                         ELSE 'pending' END,
           CASE WHEN j.reason <> '' THEN j.reason
                WHEN j.status = 'initialized' THEN 'waiting for a runner'
                WHEN j.status = 'blocked' THEN 'waiting for other jobs'
                ELSE j.status::text END
    FROM   ci_jobs j JOIN ci_runs r ON r.id = j.run_id
    WHERE  j.id = ANY (p_jobs) AND r.head_sha IS NOT NULL AND NOT (j.job_key = '' AND NOT ci_is_final(j.status))
    ORDER  BY r.repository, r.head_sha, j.name
    ON CONFLICT (repository, sha, context) DO UPDATE
    SET    run_id = EXCLUDED.run_id, job_id = EXCLUDED.job_id, state = EXCLUDED.state, description = EXCLUDED.description,
           version = old.version + 1, changed_at = clock_timestamp(),
           status = CASE old.status WHEN 'notifying' THEN 'notifying' ELSE 'pending' END, -- one in flight per context
           attempt = 0, reason = '',
           -- GitHub's wish to wait outlives the version; and what waits already keeps its place (and the update stays HOT)
           not_before = CASE old.status WHEN 'pending' THEN old.not_before ELSE greatest(old.not_before, clock_timestamp()) END
    WHERE  old.run_id <= EXCLUDED.run_id
    AND    (old.job_id, old.state) IS DISTINCT FROM (EXCLUDED.job_id, EXCLUDED.state);
END
$$;
REVOKE ALL ON FUNCTION ci_report FROM PUBLIC;

CREATE TRIGGER ci_jobs_arrive AFTER INSERT ON ci_jobs
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION ci_jobs_arrive();
CREATE TRIGGER ci_jobs_follow AFTER UPDATE ON ci_jobs
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION ci_jobs_follow();

-- ci_jobs_notify: wake whoever listens. A hint to look at the table; never the work, never the truth. The payload
-- `<id>[,<id>…]:<status>` lets a worker ignore what is not for its stage. One notification tells of up to 300 jobs that a
-- statement moved to one state: payloads must be under 8000 bytes (PostgreSQL manual, NOTIFY), and a thousand
-- notifications cost every listener more than the change itself.
CREATE FUNCTION ci_jobs_notify() RETURNS trigger
    LANGUAGE plpgsql AS
$$
BEGIN
    PERFORM pg_notify('ci_jobs_status_channel', string_agg(c.id::text, ',') || ':' || c.status)
    FROM   (SELECT id, status, (row_number() OVER (PARTITION BY status) - 1) / 300 AS part
            FROM   changed WHERE previous_status IS DISTINCT FROM status) AS c
    GROUP  BY c.status, c.part;
    RETURN NULL;
END
$$;
CREATE TRIGGER ci_jobs_notify_insert AFTER INSERT ON ci_jobs
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION ci_jobs_notify();
CREATE TRIGGER ci_jobs_notify_update AFTER UPDATE ON ci_jobs
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION ci_jobs_notify();

-- ci_move_repository: a repository was renamed or transferred: settings, runs, tokens and what hangs on them get its new
-- URL, so that there is one name for it everywhere. Known is only what deliveries told GitHub's number of; anything else stays,
-- and the answer is false. Runs are locked before the repository, as by every end of a job. Sources stay: they are a cache.
CREATE FUNCTION ci_move_repository(p_from text, p_to text, p_github_id bigint) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET enable_seqscan = on AS
$$
BEGIN
    IF NOT EXISTS (SELECT FROM ci_repositories WHERE repository = p_from AND github_id = p_github_id)
       OR EXISTS (SELECT FROM ci_repositories WHERE repository = p_to AND github_id <> p_github_id) THEN
        RETURN false;
    END IF;
    UPDATE ci_runs SET repository = p_to WHERE repository = p_from;
    UPDATE ci_jobs SET repository = p_to WHERE repository = p_from;
    UPDATE ci_reports o SET repository = p_to WHERE o.repository = p_from
    AND    NOT EXISTS (SELECT FROM ci_reports n WHERE n.repository = p_to AND n.sha = o.sha AND n.context = o.context);
    UPDATE ci_approvals o SET repository = p_to WHERE o.repository = p_from
    AND    NOT EXISTS (SELECT FROM ci_approvals n WHERE n.repository = p_to AND n.pull_request = o.pull_request);
    DELETE FROM ci_turns WHERE repository = p_from;
    PERFORM FROM ci_tally_mark FOR UPDATE; -- nobody counts meanwhile
    WITH old AS (DELETE FROM ci_tallies WHERE repository = p_from RETURNING *)
    INSERT INTO ci_tallies AS t (repository, kind, minutes, begins_at, name, step, outcome, ended, took_ms, buckets)
    SELECT p_to, kind, minutes, begins_at, name, step, outcome, ended, took_ms, buckets FROM old
    ON CONFLICT (repository, kind, minutes, begins_at, name, step, outcome) DO UPDATE
    SET    ended = t.ended + EXCLUDED.ended, took_ms = t.took_ms + EXCLUDED.took_ms, buckets = ci_add_buckets(t.buckets, EXCLUDED.buckets);
    DELETE FROM ci_repositories WHERE repository = p_to; -- a delivery under the new name was faster
    UPDATE ci_repositories SET repository = p_to WHERE repository = p_from AND github_id = p_github_id;
    IF NOT FOUND THEN -- the same news came twice at once
        RETURN false;
    END IF;
    UPDATE ci_tokens SET repository = p_to WHERE repository = p_from;
    PERFORM ci_audit('github', 'repository.move', 'repository:' || p_to, p_to, jsonb_build_object('from', p_from));
    RETURN true;
END
$$;
REVOKE ALL ON FUNCTION ci_move_repository FROM PUBLIC;

-- ci_bucket: into which bucket of a histogram a duration goes: 0 for less than 1 ms, k for 1.1^(k-1) ms up to 1.1^k.
CREATE FUNCTION ci_bucket(took_ms double precision) RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN took_ms < 1 THEN 0 ELSE 1 + floor(ln(took_ms) / ln(1.1::double precision))::integer END;

-- ci_add_buckets: two histograms together.
CREATE FUNCTION ci_add_buckets(a jsonb, b jsonb) RETURNS jsonb
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (SELECT jsonb_object_agg(s.key, s.n)
            FROM  (SELECT u.key, sum(u.value::bigint) AS n
                   FROM  (SELECT * FROM jsonb_each_text(a) UNION ALL SELECT * FROM jsonb_each_text(b)) AS u
                   GROUP BY u.key) AS s);

-- ci_tally: count what has ended since the last time into ci_tallies, of about p_limit attempts, and return of how many: as many
-- as the limit means that there is more. Each attempt and each run is counted once, whoever calls this how often, and whenever he
-- is killed: the mark moves in the same transaction. The mark is a transaction's id: a transaction that ends late has an id below the
-- oldest one that still runs, and nothing from that one on is counted before it has ended. So a transaction that is left open
-- for hours delays the statistics by as much, and nothing else.
CREATE FUNCTION ci_tally(p_limit integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp
    -- The planner thinks of a tenth of the rows: it would sort them on disk, and read all jobs to find some.
    SET work_mem = '64MB' SET enable_sort = off SET enable_hashjoin = off SET enable_mergejoin = off AS
$$
DECLARE
    v_mark    ci_tally_mark;
    v_horizon xid8;
    v_last    xid8;
    v_count   integer;
BEGIN
    SELECT * INTO v_mark FROM ci_tally_mark FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN -- somebody else is counting
        RETURN 0;
    END IF;
    -- In a statement of its own, so that its snapshot is younger than the lock, and what was counted before it.
    SELECT pg_snapshot_xmin(pg_current_snapshot()) INTO v_horizon;
    IF v_horizon <= v_mark.xid THEN -- restored into another cluster, whose transactions are numbered anew
        UPDATE ci_tally_mark SET xid = '0', since = clock_timestamp() RETURNING * INTO v_mark;
    END IF;
    -- Whole transactions, so that the mark is between two of them.
    SELECT next.xid, next.n INTO v_last, v_count
    FROM  (SELECT a.xid, row_number() OVER (ORDER BY a.xid) AS n
           FROM   ci_attempts a WHERE a.xid > v_mark.xid AND a.xid < v_horizon ORDER BY a.xid LIMIT p_limit) AS next
    ORDER  BY next.n DESC LIMIT 1;
    IF FOUND THEN
        UPDATE ci_tally_mark SET xid = v_last;
        -- A run is begun once: by the first claim of its question.
        INSERT INTO ci_tally_runs (run_id)
        SELECT j.run_id FROM ci_attempts a JOIN ci_jobs j ON j.id = a.job_id
        WHERE  a.xid > v_mark.xid AND a.xid <= v_last AND a.ended_at >= v_mark.since AND a.attempt = 1 AND a.stage = 'initializing'
        ON CONFLICT DO NOTHING;
    ELSIF NOT EXISTS (SELECT FROM ci_tally_runs) THEN
        RETURN 0;
    END IF;

    WITH attempt AS MATERIALIZED (
        SELECT j.repository, left(j.name, 150) AS job, j.job_key, a.* -- an entry of an index has at most 2,704 bytes
        FROM   ci_attempts a JOIN ci_jobs j ON j.id = a.job_id
        WHERE  a.xid > v_mark.xid AND a.xid <= v_last AND a.ended_at >= v_mark.since AND octet_length(j.repository) <= 1400
    ), run AS (
        DELETE FROM ci_tally_runs t USING ci_runs r
        WHERE  r.id = t.run_id AND ci_is_final(r.status)
        RETURNING r.repository, r.status, r.created_at, r.finished_at
    ), fact (repository, kind, name, step, outcome, at, took) AS (
        SELECT repository, 'wait', stage::text, '', '', ended_at, claimed_at - claimable_at FROM attempt
        UNION ALL
        SELECT repository, 'work', stage::text, '', outcome::text, ended_at, ended_at - claimed_at FROM attempt
        UNION ALL
        SELECT repository, 'job', job, '', outcome::text, ended_at, ended_at - claimed_at FROM attempt WHERE job_key <> '' AND ci_is_final(outcome)
        UNION ALL
        SELECT repository, 'step', job, left(s.name, 150), s.status, a.ended_at, s.finished_at - s.started_at
        FROM   attempt a JOIN ci_steps s USING (job_id, attempt)
        UNION ALL
        SELECT repository, 'run', '', '', status::text, finished_at, finished_at - created_at FROM run WHERE octet_length(repository) <= 1400
    ), counted AS ( -- once before they are spread, since there are many
        SELECT f.repository, f.kind, f.name, f.step, f.outcome, ci_bucket(d.ms) AS bucket,
               date_bin(CASE WHEN f.kind IN ('wait', 'work') THEN interval '5 minutes' ELSE interval '1 hour' END, f.at, 'epoch') AS at,
               count(*) AS n, sum(d.ms) AS ms
        FROM   fact f, LATERAL (SELECT greatest(0, extract(epoch FROM f.took)::double precision * 1000)) AS d (ms)
        WHERE  f.took IS NOT NULL -- a step that was never begun
        GROUP  BY 1, 2, 3, 4, 5, 6, 7
    ), spread AS (
        SELECT w.repository, c.kind, m.minutes, date_bin(make_interval(mins => m.minutes), c.at, 'epoch') AS begins_at,
               c.name, c.step, c.outcome, c.bucket, sum(c.n) AS n, sum(c.ms) AS ms
        FROM   counted c, (VALUES (5), (60), (1440)) AS m (minutes), LATERAL (VALUES (c.repository), ('')) AS w (repository)
        WHERE  c.kind IN ('wait', 'work') OR m.minutes > 5 AND w.repository <> ''
        GROUP  BY 1, 2, 3, 4, 5, 6, 7, 8
    )
    INSERT INTO ci_tallies AS t (repository, kind, minutes, begins_at, name, step, outcome, ended, took_ms, buckets)
    SELECT repository, kind, minutes, begins_at, name, step, outcome, sum(n), sum(ms), jsonb_object_agg(bucket, n)
    FROM   spread
    GROUP  BY 1, 2, 3, 4, 5, 6, 7
    ORDER  BY 1, 2, 3, 4, 5, 6, 7 -- what is read together is written to the same pages
    ON CONFLICT (repository, kind, minutes, begins_at, name, step, outcome) DO UPDATE
    SET    ended = t.ended + EXCLUDED.ended, took_ms = t.took_ms + EXCLUDED.took_ms, buckets = ci_add_buckets(t.buckets, EXCLUDED.buckets);
    RETURN coalesce(v_count, 0);
END
$$;
REVOKE ALL ON FUNCTION ci_tally FROM PUBLIC;

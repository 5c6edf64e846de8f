-- Who may do what, and who did what.

-- An API token. Its secret is shown once and never stored: it has 256 random bits, so that a fast hash is enough.
CREATE TABLE ci_tokens (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name         text NOT NULL CONSTRAINT token_name_has_a_length CHECK (length(name) BETWEEN 1 AND 100),
    hash         bytea NOT NULL UNIQUE CONSTRAINT token_hash_is_sha256 CHECK (length(hash) = 32),
    hint         text NOT NULL,              -- how the secret begins, to recognise it by
    scope        text NOT NULL CONSTRAINT scope_is_known CHECK (scope IN ('read', 'run', 'admin')), -- each includes those before it
    repository   ci_repository,              -- the only one that it sees; NULL: all
    created_at   timestamptz NOT NULL DEFAULT now(),
    created_by   text,
    expires_at   timestamptz,                -- NULL: never
    last_used_at timestamptz,                -- to the minute
    revoked_at   timestamptz,
    revoked_by   text
);
-- A name is what keeps the same request, sent twice, from making two tokens.
CREATE UNIQUE INDEX one_token_of_a_name ON ci_tokens (name) WHERE revoked_at IS NULL;

-- A browser that has signed in. The cookie's value is not stored either.
CREATE TABLE ci_sessions (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    hash       bytea NOT NULL UNIQUE CONSTRAINT session_hash_is_sha256 CHECK (length(hash) = 32),
    principal  text NOT NULL,
    token_id   bigint REFERENCES ci_tokens (id) ON DELETE CASCADE, -- it ends with its token
    github_id  bigint,                       -- of the user; with neither it is the admin token's
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    ended_at   timestamptz                   -- when somebody signed out
);
CREATE INDEX ci_sessions_of_tokens ON ci_sessions (token_id) WHERE token_id IS NOT NULL;
CREATE INDEX ci_sessions_expired ON ci_sessions (expires_at);

-- Every write of a person or a program outside, by triggers in the transaction of the write itself: whoever writes, also
-- in psql, and nothing that was not written. No service may write here; only the owner may take from it.
CREATE TABLE audit_log (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    principal  text NOT NULL,  -- admin, token:<id>, session of …, github (signed deliveries), role:<a login of the database>
    action     text NOT NULL,  -- <kind>.<verb>
    subject    text NOT NULL,  -- <kind>:<id>
    repository text,
    details    jsonb NOT NULL DEFAULT '{}'
);

-- ci_audit: write it down. For triggers, which run as the owner: `PERFORM ci_audit(NEW.decided_by, 'approval.decide', …)`.
-- Without a principal it is whoever has logged in to the database, or what he SET ROLE to.
CREATE FUNCTION ci_audit(p_principal text, p_action text, p_subject text, p_repository text, p_details jsonb) RETURNS void
    LANGUAGE sql AS
$$
    INSERT INTO audit_log (principal, action, subject, repository, details)
    VALUES (coalesce(p_principal, 'role:' || CASE current_setting('role') WHEN 'none' THEN session_user ELSE current_setting('role') END),
            p_action, p_subject, p_repository, jsonb_strip_nulls(p_details))
$$;
REVOKE ALL ON FUNCTION ci_audit FROM PUBLIC;

-- Runs come many in one statement.
CREATE FUNCTION ci_runs_audit_insert() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS
$$
BEGIN
    INSERT INTO audit_log (principal, action, subject, repository, details)
    SELECT coalesce(r.principal, 'role:' || CASE current_setting('role') WHEN 'none' THEN session_user ELSE current_setting('role') END),
           CASE WHEN r.rerun_of IS NULL THEN 'run.create' ELSE 'run.rerun' END, 'run:' || r.id, r.repository,
           jsonb_strip_nulls(jsonb_build_object('event', r.event, 'ref', r.ref, 'head_sha', r.head_sha,
                                                'rerun_of', r.rerun_of::text, 'idempotency_key', r.idempotency_key))
    FROM   created r;
    RETURN NULL;
END
$$;
CREATE TRIGGER ci_runs_audit_insert AFTER INSERT ON ci_runs
    REFERENCING NEW TABLE AS created FOR EACH STATEMENT EXECUTE FUNCTION ci_runs_audit_insert();

-- ci_audit_row: what else is written, a row at a time. Each trigger's WHEN says which change is worth a line.
CREATE FUNCTION ci_audit_row() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS
$$
BEGIN
    CASE TG_TABLE_NAME
    WHEN 'ci_runs' THEN
        PERFORM ci_audit(NEW.cancelled_by, 'run.cancel', 'run:' || NEW.id, NEW.repository, '{}');
    WHEN 'ci_jobs' THEN
        PERFORM ci_audit(NULL, 'job.cancel', 'job:' || NEW.id, NEW.repository, jsonb_build_object('run', NEW.run_id::text, 'from', NEW.previous_status));
    WHEN 'ci_approvals' THEN
        PERFORM ci_audit(NEW.decided_by, CASE NEW.status WHEN 'approved' THEN 'approval.approve' ELSE 'approval.reject' END,
                         'approval:' || NEW.id, NEW.repository, jsonb_build_object('pull_request', NEW.pull_request, 'head_sha', NEW.head_sha));
    WHEN 'ci_sessions' THEN
        PERFORM ci_audit(NEW.principal, CASE TG_OP WHEN 'INSERT' THEN 'session.begin' ELSE 'session.end' END, 'session:' || NEW.id, NULL, '{}');
    WHEN 'ci_tokens' THEN
        IF TG_OP = 'INSERT' THEN
            PERFORM ci_audit(NEW.created_by, 'token.create', 'token:' || NEW.id, NEW.repository,
                             jsonb_build_object('name', NEW.name, 'scope', NEW.scope, 'expires_at', NEW.expires_at));
        ELSIF TG_OP = 'DELETE' THEN
            PERFORM ci_audit(NULL, 'token.delete', 'token:' || OLD.id, OLD.repository, jsonb_build_object('name', OLD.name));
        ELSIF OLD.revoked_at IS NULL AND NEW.revoked_at IS NOT NULL THEN
            PERFORM ci_audit(NEW.revoked_by, 'token.revoke', 'token:' || NEW.id, NEW.repository, jsonb_build_object('name', NEW.name));
        ELSE -- by hand
            PERFORM ci_audit(NULL, 'token.change', 'token:' || NEW.id, NEW.repository, jsonb_build_object(
                'from', to_jsonb(OLD) - 'hash', 'to', to_jsonb(NEW) - 'hash', 'secret_changed', OLD.hash <> NEW.hash));
        END IF;
    END CASE;
    RETURN NULL;
END
$$;
CREATE TRIGGER ci_runs_audit_cancel AFTER UPDATE OF cancel_requested_at ON ci_runs
    FOR EACH ROW WHEN (OLD.cancel_requested_at IS NULL AND NEW.cancel_requested_at IS NOT NULL) EXECUTE FUNCTION ci_audit_row();
-- A job that nobody asked to cancel was cancelled by hand.
CREATE TRIGGER ci_jobs_audit_cancel AFTER UPDATE OF status ON ci_jobs
    FOR EACH ROW WHEN (NEW.status = 'cancelled' AND NEW.cancel_requested_at IS NULL AND NEW.previous_status <> 'cancelled') EXECUTE FUNCTION ci_audit_row();
CREATE TRIGGER ci_approvals_audit AFTER UPDATE OF status ON ci_approvals
    FOR EACH ROW WHEN (OLD.decided_at IS NULL AND NEW.decided_at IS NOT NULL) EXECUTE FUNCTION ci_audit_row();
CREATE TRIGGER ci_tokens_audit AFTER INSERT OR DELETE OR UPDATE OF name, hash, scope, repository, created_by, expires_at, revoked_at ON ci_tokens
    FOR EACH ROW EXECUTE FUNCTION ci_audit_row();
CREATE TRIGGER ci_sessions_audit_begin AFTER INSERT ON ci_sessions
    FOR EACH ROW EXECUTE FUNCTION ci_audit_row();
CREATE TRIGGER ci_sessions_audit_end AFTER UPDATE OF ended_at ON ci_sessions
    FOR EACH ROW WHEN (OLD.ended_at IS NULL AND NEW.ended_at IS NOT NULL) EXECUTE FUNCTION ci_audit_row();

-- Settings change again and again: changed_by says who makes this very change, and is not kept, so that the next one, by
-- hand, is not taken for his. What is learned from GitHub is no setting.
CREATE FUNCTION ci_repositories_audit() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS
$$
DECLARE
    c_no_settings constant text[] := '{repository,github_id,changed_by}';
BEGIN
    IF TG_OP = 'DELETE' THEN
        PERFORM ci_audit(NULL, 'repository.delete', 'repository:' || OLD.repository, OLD.repository,
                         jsonb_build_object('from', to_jsonb(OLD) - c_no_settings));
        RETURN OLD;
    ELSIF TG_OP = 'INSERT' THEN
        IF NEW.changed_by IS NOT NULL OR NEW.max_running IS NOT NULL OR NEW.weight <> 1 OR NEW.fork_policy <> 'ask' THEN
            PERFORM ci_audit(NEW.changed_by, 'repository.change', 'repository:' || NEW.repository, NEW.repository,
                             jsonb_build_object('to', to_jsonb(NEW) - c_no_settings));
        END IF;
    ELSIF to_jsonb(OLD) - c_no_settings <> to_jsonb(NEW) - c_no_settings THEN
        PERFORM ci_audit(NEW.changed_by, 'repository.change', 'repository:' || NEW.repository, NEW.repository,
                         jsonb_build_object('from', to_jsonb(OLD) - c_no_settings, 'to', to_jsonb(NEW) - c_no_settings));
    END IF;
    IF TG_OP = 'UPDATE' AND OLD.github_id IS NOT NULL AND NEW.github_id IS NULL THEN -- by a person: deliveries never take it back
        PERFORM ci_audit(NEW.changed_by, 'repository.forget_github_id', 'repository:' || NEW.repository, NEW.repository,
                         jsonb_build_object('github_id', OLD.github_id::text));
    END IF;
    NEW.changed_by := NULL;
    RETURN NEW;
END
$$;
CREATE TRIGGER ci_repositories_audit BEFORE INSERT OR UPDATE OR DELETE ON ci_repositories
    FOR EACH ROW EXECUTE FUNCTION ci_repositories_audit();

-- ci_audit_refused: the one thing that the gateway reports itself, because nothing is written: somebody at an address
-- gave wrong credentials so many times.
CREATE FUNCTION ci_audit_refused(p_address text, p_times integer) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS
$$
BEGIN
    PERFORM ci_audit('anonymous', 'credentials.refuse', 'address:' || p_address, NULL, jsonb_build_object('times', p_times));
END
$$;
REVOKE ALL ON FUNCTION ci_audit_refused FROM PUBLIC;

-- silence: disable the triggers of ci_jobs that notify, whatever their names are.
DO $$
DECLARE
    v_trigger name;
BEGIN
    FOR v_trigger IN
        SELECT t.tgname FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
        WHERE  t.tgrelid = 'ci_jobs'::regclass AND NOT t.tgisinternal AND p.prosrc LIKE '%pg_notify%'
    LOOP
        EXECUTE format('ALTER TABLE ci_jobs DISABLE TRIGGER %I', v_trigger);
    END LOOP;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no trigger of ci_jobs notifies';
    END IF;
END
$$

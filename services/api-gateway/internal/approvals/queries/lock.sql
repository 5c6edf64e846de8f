-- lock: until the transaction ends nobody else asks for this pull request.
SELECT pg_advisory_xact_lock(hashtextextended('ci_approvals ' || @repository::text || '#' || @pull_request::integer, 0))

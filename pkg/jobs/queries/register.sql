-- register: a worker begins. Its beat holds all its claims.
INSERT INTO ci_workers (stage, name, slots, lease) VALUES (@stage, @name, @slots, @lease) RETURNING id

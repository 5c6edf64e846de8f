-- insert: a complete source, whose chunks follow in the same transaction. Somebody else who stores the same tree at
-- this moment is waited for; if he commits, there is no row.
INSERT INTO ci_sources (repository, tree, byte_count, chunk_count, sha256)
VALUES (@repository, @tree, @byte_count, @chunk_count, @sha256)
ON CONFLICT (repository, tree) WHERE sha256 IS NOT NULL DO NOTHING
RETURNING id

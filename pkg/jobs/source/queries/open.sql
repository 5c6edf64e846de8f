-- open: what a complete source must turn out to be.
SELECT chunk_count, sha256 FROM ci_sources
WHERE  id = @id AND sha256 IS NOT NULL

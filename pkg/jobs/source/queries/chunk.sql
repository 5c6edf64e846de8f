-- chunk: one at a time, so that no connection is held while files are written.
SELECT data FROM ci_source_chunks
WHERE  source_id = @id AND seq = @seq

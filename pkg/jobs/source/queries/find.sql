-- find: is this tree stored already? A source without a sha256 is not complete.
SELECT id FROM ci_sources
WHERE  repository = @repository AND tree = @tree AND sha256 IS NOT NULL

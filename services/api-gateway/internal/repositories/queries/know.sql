-- know: a row with the defaults. By itself: what triggers note about an INSERT must not be said of an UPDATE.
INSERT INTO ci_repositories (repository) VALUES (@repository) ON CONFLICT (repository) DO NOTHING

-- limited: may only so many jobs of this repository run at once? Then all of them wait to be admitted.
SELECT EXISTS (SELECT FROM ci_repositories WHERE repository = @repository AND max_running IS NOT NULL)

-- repository_of: whose run it is.
SELECT repository FROM ci_runs WHERE id = @run

-- newest_run: the newest run that GitHub was told of for a commit, which is what somebody there wants again.
SELECT max(run_id) FROM ci_reports WHERE repository = @repository AND sha = @sha

-- all_tallied: is there nothing left to count?
SELECT NOT EXISTS (SELECT FROM ci_attempts a, ci_tally_mark m WHERE a.xid > m.xid)

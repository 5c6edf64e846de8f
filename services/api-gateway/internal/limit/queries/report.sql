-- report: write down who was refused, and how often.
SELECT ci_audit_refused(address, times)
FROM   unnest(@addresses::text[], @times::integer[]) AS miss (address, times)

-- live: which of these pairs have not ended; 0 is none.
SELECT h.token, h.session
FROM   unnest(@tokens::bigint[], @sessions::bigint[]) AS h (token, session)
WHERE  (h.token = 0 OR EXISTS (SELECT FROM ci_tokens t
                               WHERE  t.id = h.token AND t.revoked_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > clock_timestamp())))
AND    (h.session = 0 OR EXISTS (SELECT FROM ci_sessions s WHERE s.id = h.session AND s.ended_at IS NULL AND s.expires_at > clock_timestamp()))

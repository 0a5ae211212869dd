-- Who has logged in by the page. Of what is sent as a cookie, and of what is sent beside it, the digests are kept.
CREATE TABLE sessions (
    digest      BLOB PRIMARY KEY,
    csrf        BLOB NOT NULL,
    -- By which token; none: by the address that was printed at the start.
    token       TEXT REFERENCES tokens (id) ON DELETE CASCADE,
    created_at  TEXT NOT NULL,
    expires_at  TEXT NOT NULL
) STRICT;
CREATE INDEX sessions_by_token ON sessions (token);

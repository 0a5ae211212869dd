-- Entries of the catalog of base images that were put by HTTP; without one, where another's entry was taken away.
CREATE TABLE base_entries (
    name        TEXT PRIMARY KEY,
    entry       TEXT,
    updated_at  TEXT NOT NULL
) STRICT;

-- What is known of the base images that a project has.
CREATE TABLE base_state (
    project           TEXT NOT NULL,
    name              TEXT NOT NULL,
    -- What the bytes were held against, and the ETag that the server gave them.
    digest            TEXT,
    etag              TEXT,
    url               TEXT,
    checked_at        TEXT,
    -- What there is that is newer, in words.
    newer             TEXT,
    -- What the addresses that did not deliver have said, as JSON.
    failures          TEXT NOT NULL DEFAULT '[]',
    PRIMARY KEY (project, name)
) STRICT;

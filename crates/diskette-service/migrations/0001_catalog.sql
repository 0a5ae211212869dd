-- Times are RFC 3339 in UTC, to the microsecond, so that they compare as text. JSON is text.

CREATE TABLE tokens (
    id          TEXT PRIMARY KEY,
    name        TEXT NOT NULL,
    project     TEXT NOT NULL,
    scopes      TEXT NOT NULL,
    -- SHA-256 of the secret part; secrets are random, so no salt is needed.
    digest      BLOB NOT NULL,
    created_at  TEXT NOT NULL,
    expires_at  TEXT,
    used_at     TEXT
) STRICT;

-- What the store holds, by the SHA-256 of its bytes.
CREATE TABLE blobs (
    sha256        TEXT PRIMARY KEY,
    format        TEXT NOT NULL,
    size          INTEGER NOT NULL,
    virtual_size  INTEGER NOT NULL,
    guest_sha256  TEXT,
    created_at    TEXT NOT NULL
) STRICT;

-- One row for each version of an image.
CREATE TABLE images (
    id              TEXT PRIMARY KEY,
    project         TEXT NOT NULL,
    name            TEXT NOT NULL,
    version         INTEGER NOT NULL DEFAULT 1,
    -- Whether it is the version that its name stands for.
    current         INTEGER NOT NULL DEFAULT 1,
    display_name    TEXT,
    description     TEXT,
    tags            TEXT NOT NULL DEFAULT '[]',
    properties      TEXT NOT NULL DEFAULT '{}',
    os              TEXT,
    kind            TEXT NOT NULL DEFAULT 'disk',
    state           TEXT NOT NULL,
    problem         TEXT,
    -- What was asked for when it was made.
    wanted          TEXT NOT NULL DEFAULT '{}',
    source          TEXT NOT NULL DEFAULT '{}',
    source_name     TEXT,
    source_format   TEXT,
    source_sha256   TEXT,
    format          TEXT,
    blob            TEXT REFERENCES blobs (sha256),
    virtual_size    INTEGER,
    stored_size     INTEGER,
    guest_sha256    TEXT,
    flags           TEXT NOT NULL DEFAULT '[]',
    report          TEXT,
    bytes_received  INTEGER NOT NULL DEFAULT 0,
    bytes_total     INTEGER,
    -- Bytes set aside for it while it is made.
    reserved        INTEGER NOT NULL DEFAULT 0,
    revision        INTEGER NOT NULL DEFAULT 1,
    created_at      TEXT NOT NULL,
    updated_at      TEXT NOT NULL
) STRICT;
CREATE INDEX images_by_name ON images (project, name, version);
CREATE INDEX images_by_blob ON images (blob);
CREATE INDEX images_by_state ON images (state);

-- What keeps an image from being deleted: a node, by its id.
CREATE TABLE image_uses (
    image  TEXT NOT NULL REFERENCES images (id),
    used_by   TEXT NOT NULL,
    PRIMARY KEY (image, used_by)
) STRICT;

CREATE TABLE aliases (
    project     TEXT NOT NULL,
    name        TEXT NOT NULL,
    image       TEXT NOT NULL REFERENCES images (id),
    revision    INTEGER NOT NULL DEFAULT 1,
    updated_at  TEXT NOT NULL,
    PRIMARY KEY (project, name)
) STRICT;

-- Resumable uploads. How many bytes have come, the spool's own record says.
CREATE TABLE uploads (
    id          TEXT PRIMARY KEY,
    image       TEXT NOT NULL REFERENCES images (id),
    project     TEXT NOT NULL,
    length      INTEGER,
    metadata    TEXT NOT NULL,
    state       TEXT NOT NULL,
    expires_at  TEXT NOT NULL,
    created_at  TEXT NOT NULL
) STRICT;

CREATE TABLE operations (
    id          TEXT PRIMARY KEY,
    project     TEXT NOT NULL,
    kind        TEXT NOT NULL,
    image       TEXT,
    state       TEXT NOT NULL,
    done        INTEGER NOT NULL DEFAULT 0,
    total       INTEGER,
    request     TEXT NOT NULL DEFAULT '{}',
    result      TEXT,
    problem     TEXT,
    created_at  TEXT NOT NULL,
    updated_at  TEXT NOT NULL
) STRICT;
CREATE INDEX operations_by_project ON operations (project, id);

-- Ids never fall, so that whoever reads events can go on where it left off.
CREATE TABLE events (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    at       TEXT NOT NULL,
    project  TEXT NOT NULL,
    kind     TEXT NOT NULL,
    subject  TEXT NOT NULL,
    change   TEXT NOT NULL,
    data     TEXT NOT NULL DEFAULT '{}'
) STRICT;
CREATE INDEX events_by_subject ON events (subject, id);

CREATE TABLE idempotency (
    project     TEXT NOT NULL,
    key         TEXT NOT NULL,
    request     TEXT NOT NULL,
    status      INTEGER,
    headers     TEXT NOT NULL DEFAULT '{}',
    body        BLOB,
    created_at  TEXT NOT NULL,
    PRIMARY KEY (project, key)
) STRICT;

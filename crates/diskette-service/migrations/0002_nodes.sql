-- Machines, each with an overlay of its own on an image. The image is held by a row of image_uses.
CREATE TABLE nodes (
    id          TEXT PRIMARY KEY,
    project     TEXT NOT NULL,
    name        TEXT NOT NULL,
    image       TEXT NOT NULL REFERENCES images (id),
    -- What it consists of, as JSON.
    machine     TEXT NOT NULL,
    cloud_init  TEXT,
    disk_size   INTEGER NOT NULL,
    state       TEXT NOT NULL,
    -- Why it is in that state, where there is more to say.
    reason      TEXT,
    revision    INTEGER NOT NULL DEFAULT 1,
    created_at  TEXT NOT NULL,
    updated_at  TEXT NOT NULL,
    UNIQUE (project, name)
) STRICT;

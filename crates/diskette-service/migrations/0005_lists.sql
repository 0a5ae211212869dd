-- A page of a list is read in its order, whatever the number of images.
CREATE INDEX images_by_creation ON images (project, created_at, id);
CREATE INDEX images_by_size ON images (project, coalesce(stored_size, 0), id);

-- The last transaction of each writer, by which the outcome of a COMMIT can be found out when its answer was lost.
-- Rows that were not written for a day belong to writers that are gone.
CREATE TABLE uow_outcomes (
  writer VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
  token VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  written_at BIGINT NOT NULL
);

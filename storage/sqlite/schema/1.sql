-- One rowid table holds all records: WITHOUT ROWID would write twice the bytes.
-- The version stands before the value, so that reading it never touches the
-- pages that a long value overflows into.
CREATE TABLE record (tbl INTEGER NOT NULL, key BLOB NOT NULL, version BLOB NOT NULL, value BLOB, UNIQUE (tbl, key));
PRAGMA application_id = 1129202508; -- "CNCL"

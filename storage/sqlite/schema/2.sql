-- One row: the open mark, see mark.go. The turn only makes a frame for the log.
CREATE TABLE mark (id INTEGER PRIMARY KEY CHECK (id = 1), state INTEGER NOT NULL, turn INTEGER NOT NULL);
INSERT INTO mark VALUES (1, 0, 0);

CREATE TABLE doc (id INTEGER PRIMARY KEY, body TEXT, meta TEXT);
INSERT INTO doc VALUES (1,'see the sea','{"tags":["blue","salt"]}'),(2,'climb the hill','{"tags":["green"]}');
CREATE VIRTUAL TABLE doc_index USING fts5(body, content='doc', content_rowid='id', tokenize='porter');
INSERT INTO doc_index(doc_index) VALUES ('rebuild');
CREATE VIRTUAL TABLE word USING fts5vocab(doc_index, row);
CREATE VIRTUAL TABLE old USING fts3(body); INSERT INTO old VALUES ('see the sea');
CREATE VIRTUAL TABLE span USING rtree_i32(id, low, high); INSERT INTO span VALUES (1, 0, 5), (2, 3, 9);
CREATE VIEW about_sea AS SELECT rowid AS id, body FROM doc_index WHERE doc_index MATCH 'sea';
CREATE VIEW tag AS SELECT doc.id, t.value AS tag FROM doc, json_each(doc.meta, '$.tags') AS t;

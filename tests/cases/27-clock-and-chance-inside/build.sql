CREATE TABLE staff (id INTEGER PRIMARY KEY, name TEXT, dept TEXT, pay REAL, hired TEXT);
INSERT INTO staff VALUES (1,'Ana','sales',50,'2019-03-01'),(2,'Ben','sales',70,'2020-06-11'),(3,'Cleo','ops',70,'2018-01-20'),(4,'Dov','ops',40,NULL),(5,'Eli','lab',NULL,'2021-09-09');
CREATE VIEW lately AS SELECT name, hired > date('now', '-10 years') AS new FROM staff;
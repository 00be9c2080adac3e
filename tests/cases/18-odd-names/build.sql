CREATE TABLE "unit price" ("per cent" REAL, "it's" TEXT, "a.b" TEXT, "say ""hi""" TEXT, "1st" TEXT, größe INT, "Check" TEXT, desc TEXT, "key" TEXT);
INSERT INTO "unit price" VALUES (1.5,'x','y','z','f',3,'c','d','k');
CREATE VIEW "all" AS SELECT größe AS "table", "Check" FROM "unit price";

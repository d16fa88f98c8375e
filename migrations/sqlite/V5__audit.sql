-- Who did what, to what, and when: written in the transaction of the change that it tells of. AUTOINCREMENT: ids rise, also
-- after the newest was deleted.
CREATE TABLE audit (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    object TEXT NOT NULL,
    tenant TEXT,
    detail TEXT
) STRICT;
CREATE INDEX audit_by_object ON audit (object);
CREATE INDEX audit_by_actor ON audit (actor);
CREATE INDEX audit_by_tenant ON audit (tenant);

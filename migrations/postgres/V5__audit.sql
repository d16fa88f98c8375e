-- Who did what, to what, and when: written in the transaction of the change that it tells of.
CREATE TABLE audit (
    id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at     bigint NOT NULL,
    actor  text   NOT NULL,
    action text   NOT NULL,
    object text   NOT NULL,
    tenant text,
    detail text
);
CREATE INDEX audit_object ON audit (object, id);
CREATE INDEX audit_actor ON audit (actor, id);
CREATE INDEX audit_tenant ON audit (tenant, id);

-- API keys. Of a key's secret only the SHA-256 is kept. Times are milliseconds since the Unix epoch.
CREATE TABLE api_keys (
    -- Compared byte by byte, whatever the collation of the database.
    prefix      text   COLLATE "C" PRIMARY KEY,
    -- Of its last change.
    revision    bigint NOT NULL,
    created_at  bigint NOT NULL,
    expires_at  bigint,
    revoked_at  bigint,
    role        text   NOT NULL,
    -- The one tenant that its holder is confined to, if they are.
    tenant      text,
    name        text   NOT NULL,
    secret_hash bytea  NOT NULL CHECK (octet_length(secret_hash) = 32)
);
-- What has changed since a revision: asked by every process, a few times a second.
CREATE UNIQUE INDEX api_keys_revision ON api_keys (revision);
CREATE INDEX api_keys_ended ON api_keys (coalesce(revoked_at, expires_at));

-- One row. Whoever changes a key raises it in the same transaction and holds its lock until the commit, so that the order
-- of revisions is the order of commits: a reader that sees a revision sees all before it.
CREATE TABLE key_revision (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    revision bigint  NOT NULL
);
INSERT INTO key_revision (revision) VALUES (0);

-- How many subscriptions each tenant has: changed with them, in the same statement.
CREATE TABLE tenants (
    tenant        text   PRIMARY KEY,
    subscriptions bigint NOT NULL
);
-- Nobody may change them while they are counted.
LOCK TABLE subscriptions IN SHARE ROW EXCLUSIVE MODE;
INSERT INTO tenants (tenant, subscriptions) SELECT tenant, count(*) FROM subscriptions GROUP BY tenant;
CREATE INDEX tenants_empty ON tenants (tenant) WHERE subscriptions = 0;

-- A tenant's subscriptions, by id.
CREATE INDEX subscriptions_tenant ON subscriptions (tenant, id);

-- Whose the deliveries of deleted subscriptions are.
CREATE TABLE deleted_subscriptions (
    id         bigint PRIMARY KEY,
    deleted_at bigint NOT NULL,
    tenant     text   NOT NULL
);
CREATE INDEX deleted_subscriptions_deleted_at ON deleted_subscriptions (deleted_at);

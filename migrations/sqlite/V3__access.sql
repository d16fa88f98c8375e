-- API keys. Of a key's secret only the SHA-256 is kept.
CREATE TABLE api_keys (
    prefix TEXT NOT NULL PRIMARY KEY,
    -- Of its last change.
    revision INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    revoked_at INTEGER,
    role TEXT NOT NULL,
    -- The one tenant that its holder is confined to, if they are.
    tenant TEXT,
    name TEXT NOT NULL,
    secret_hash BLOB NOT NULL CHECK (length(secret_hash) = 32)
) STRICT, WITHOUT ROWID;

-- What has changed since a revision: asked by every process, a few times a second.
CREATE UNIQUE INDEX api_keys_by_revision ON api_keys (revision);
CREATE INDEX api_keys_by_end ON api_keys (coalesce(revoked_at, expires_at));

-- How often a key was changed: the revision of the last change. One row.
CREATE TABLE key_revision (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    revision INTEGER NOT NULL
) STRICT;
INSERT INTO key_revision VALUES (1, 0);

-- How many subscriptions each tenant has: changed with them, in the same transaction.
CREATE TABLE tenants (
    tenant TEXT NOT NULL PRIMARY KEY,
    subscriptions INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO tenants (tenant, subscriptions) SELECT tenant, count(*) FROM subscriptions GROUP BY tenant;
CREATE INDEX tenants_empty ON tenants (tenant) WHERE subscriptions = 0;

-- A tenant's subscriptions, by id.
CREATE INDEX subscriptions_by_tenant ON subscriptions (tenant, id);

-- Whose the deliveries of deleted subscriptions are.
CREATE TABLE deleted_subscriptions (
    id INTEGER PRIMARY KEY,
    deleted_at INTEGER NOT NULL,
    tenant TEXT NOT NULL
) STRICT;
CREATE INDEX deleted_subscriptions_by_time ON deleted_subscriptions (deleted_at);

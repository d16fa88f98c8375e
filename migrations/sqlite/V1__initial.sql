-- Times are milliseconds since the Unix epoch. Ids of events, deliveries and logs are UUIDv7 as 16 bytes.
--
-- `seq` is the rowid: rows are appended at the end of the table, which is the cheapest insert SQLite has, and the index
-- by subscription holds a small integer instead of the id. One owner gives ids in commit order, so the order of `seq` is
-- the order of the ids.

CREATE TABLE subscriptions (
    -- AUTOINCREMENT: an id is never given again, or the deliveries of a deleted subscription would become another's.
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant TEXT NOT NULL,
    target_url TEXT NOT NULL,
    event_types TEXT NOT NULL,
    secret TEXT,
    disabled TEXT,
    version INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;

CREATE INDEX subscriptions_by_target ON subscriptions (target_url);

-- What the enabled subscriptions want, so that an event finds them by the patterns that match it. The empty pattern, which
-- nobody can write, is that of a subscription without any: it wants every event.
CREATE TABLE subscription_patterns (
    tenant TEXT NOT NULL,
    pattern TEXT NOT NULL,
    subscription_id INTEGER NOT NULL,
    PRIMARY KEY (tenant, pattern, subscription_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX subscription_patterns_by_subscription ON subscription_patterns (subscription_id);

-- The payload is last: whoever does not ask for it does not read the pages that it overflows to.
CREATE TABLE events (
    seq INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE CHECK (length(id) = 16),
    tenant TEXT NOT NULL,
    event_type TEXT NOT NULL,
    ordering_key TEXT,
    deliveries INTEGER NOT NULL,
    payload BLOB NOT NULL
) STRICT;

-- `event` is the `seq` of the event that a delivery came from by fan-out: its payload is there, and not here.
CREATE TABLE deliveries (
    seq INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE CHECK (length(id) = 16),
    subscription_id INTEGER NOT NULL,
    event_type TEXT,
    event INTEGER,
    payload BLOB,
    -- Nor can a delivery name an event that is not stored: there would be nothing to send.
    CHECK ((event IS NULL) <> (payload IS NULL))
) STRICT;

CREATE INDEX deliveries_by_subscription ON deliveries (subscription_id);
-- Partial: a delivery that was ingested on its own pays nothing for it.
CREATE INDEX deliveries_by_event ON deliveries (event) WHERE event IS NOT NULL;

CREATE TABLE idempotency_keys (
    seq INTEGER PRIMARY KEY,
    scope TEXT NOT NULL,
    key TEXT NOT NULL,
    request_hash BLOB NOT NULL CHECK (length(request_hash) = 32),
    outcome BLOB NOT NULL CHECK (length(outcome) = 16),
    created_at INTEGER NOT NULL,
    UNIQUE (scope, key)
) STRICT;

CREATE INDEX idempotency_keys_by_time ON idempotency_keys (created_at);

CREATE TABLE delivery_logs (
    seq INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE CHECK (length(id) = 16),
    subscription_id INTEGER NOT NULL,
    delivery_id BLOB NOT NULL,
    target_url TEXT NOT NULL,
    timestamp INTEGER NOT NULL,
    attempt_number INTEGER NOT NULL,
    outcome INTEGER NOT NULL,
    http_status INTEGER,
    error_details TEXT,
    duration_ms INTEGER NOT NULL,
    response_body TEXT
) STRICT;

CREATE INDEX delivery_logs_by_subscription ON delivery_logs (subscription_id);
CREATE INDEX delivery_logs_by_delivery ON delivery_logs (delivery_id);

-- Deliveries that failed and will be attempted again; only these have a row that changes.
CREATE TABLE retries (
    delivery_id BLOB NOT NULL PRIMARY KEY,
    subscription_id INTEGER NOT NULL,
    attempt_number INTEGER NOT NULL,
    next_attempt_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX retries_by_subscription ON retries (subscription_id, next_attempt_at, delivery_id);
CREATE INDEX retries_by_time ON retries (next_attempt_at, subscription_id);

-- Subscriptions that have fallen behind: everything of theirs up to `delivery_id` has been tried.
CREATE TABLE positions (
    subscription_id INTEGER PRIMARY KEY,
    delivery_id BLOB NOT NULL
) STRICT;

-- Everything up to `delivery_id` has been tried, the subscriptions in `positions` excepted. One row.
CREATE TABLE watermark (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    delivery_id BLOB NOT NULL
) STRICT;

-- Which store this is. It is in the cache's keys, so that two stores behind one Redis cannot take each other's
-- subscriptions for their own. One row.
CREATE TABLE identity (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    id BLOB NOT NULL
) STRICT;
INSERT INTO identity VALUES (1, randomblob(16));

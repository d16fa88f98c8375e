-- Who wants which events. Ids come from an identity column and are never used twice.
CREATE TABLE subscriptions (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant      text   NOT NULL,
    target_url  text   NOT NULL,
    event_types text[] NOT NULL,
    secret      text,
    disabled    text,
    version     bigint NOT NULL,
    -- Times are milliseconds since the Unix epoch, here and below.
    created_at  bigint NOT NULL,
    updated_at  bigint NOT NULL
);
-- Hash, not btree: URLs may be longer than a btree key, and are only ever looked up whole.
CREATE INDEX subscriptions_target_url ON subscriptions USING hash (target_url);

-- The patterns of the enabled subscriptions: who wants an event is looked up here, by the few patterns that match its
-- type, and no other subscription is read. The pattern '' stands for a subscription that has none and wants everything.
CREATE TABLE subscription_patterns (
    tenant          text   NOT NULL,
    pattern         text   NOT NULL,
    subscription_id bigint NOT NULL,
    PRIMARY KEY (tenant, pattern, subscription_id)
);
CREATE INDEX subscription_patterns_subscription ON subscription_patterns (subscription_id);

-- A trigger, because its statements see what was committed before the subscription's row was locked: of two changes at
-- the same time the second would leave the first one's patterns behind if it looked for them before it had the lock.
CREATE FUNCTION keep_subscription_patterns() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.event_types = OLD.event_types AND NEW.disabled IS NOT DISTINCT FROM OLD.disabled THEN
        RETURN NULL;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        DELETE FROM subscription_patterns WHERE subscription_id = OLD.id;
    END IF;
    IF TG_OP <> 'DELETE' AND NEW.disabled IS NULL THEN
        INSERT INTO subscription_patterns (tenant, pattern, subscription_id)
        SELECT DISTINCT NEW.tenant, pattern, NEW.id
        FROM unnest(CASE WHEN NEW.event_types = '{}' THEN ARRAY[''] ELSE NEW.event_types END) AS pattern;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER keep_subscription_patterns AFTER INSERT OR UPDATE OR DELETE ON subscriptions
    FOR EACH ROW EXECUTE FUNCTION keep_subscription_patterns();

-- The three big tables are appended to and never updated. They are partitioned by the time in their UUIDv7 ids; the
-- partitions are made and dropped by the service (src/store/postgres/partitions.rs).

-- What was fanned out: the one payload of all its deliveries. Columns are ordered so that none is padded.
CREATE TABLE events (
    id           uuid    NOT NULL,
    deliveries   integer NOT NULL,
    tenant       text    NOT NULL,
    event_type   text    NOT NULL,
    ordering_key text,
    payload      bytea   NOT NULL,
    PRIMARY KEY (id)
) PARTITION BY RANGE (id);
-- Compressing every payload costs more processor time than the disk it saves for three days is worth.
ALTER TABLE events ALTER COLUMN payload SET STORAGE EXTERNAL;

CREATE TABLE deliveries (
    id              uuid   NOT NULL,
    subscription_id bigint NOT NULL,
    event_type      text,
    -- NULL if it is an event's, and then the event's.
    payload         bytea,
    event_id        uuid,
    PRIMARY KEY (id)
) PARTITION BY RANGE (id);
-- A subscription's backlog, in order.
CREATE INDEX deliveries_backlog ON deliveries (subscription_id, id);
-- An event's deliveries, in order. What was not fanned out is not in it.
CREATE INDEX deliveries_event ON deliveries (event_id, id) WHERE event_id IS NOT NULL;
ALTER TABLE deliveries ALTER COLUMN payload SET STORAGE EXTERNAL;

CREATE TABLE delivery_logs (
    id              uuid     NOT NULL,
    delivery_id     uuid     NOT NULL,
    subscription_id bigint   NOT NULL,
    "timestamp"     bigint   NOT NULL,
    attempt_number  integer  NOT NULL,
    duration_ms     integer  NOT NULL,
    outcome         smallint NOT NULL,
    http_status     smallint,
    -- True in a commit's last row, NULL in the others.
    last_of_commit  boolean,
    target_url      text     NOT NULL,
    error_details   text,
    response_body   text,
    -- A subscription's attempts, newest first.
    PRIMARY KEY (subscription_id, id)
) PARTITION BY RANGE (id);
-- A delivery's attempts, and whether there are any.
CREATE INDEX delivery_logs_delivery ON delivery_logs (delivery_id);
-- The newest log of all, for a tenth of what an index of all ids would cost: one entry a commit, not one a row.
CREATE INDEX delivery_logs_newest ON delivery_logs (id) WHERE last_of_commit;

-- Deliveries that failed and wait for their next attempt: the only rows of the data path that change.
CREATE TABLE retries (
    delivery_id     uuid    PRIMARY KEY,
    subscription_id bigint  NOT NULL,
    next_attempt_at bigint  NOT NULL,
    attempt_number  integer NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
CREATE INDEX retries_subscription ON retries (subscription_id, next_attempt_at, delivery_id);
CREATE INDEX retries_due ON retries (next_attempt_at, subscription_id);

-- The keys under which a producer may send the same request again, and what the first one came to: a delivery or an
-- event. Appended to, and pruned by age.
CREATE TABLE idempotency_keys (
    created_at   bigint NOT NULL,
    outcome      uuid   NOT NULL,
    scope        text   NOT NULL,
    key          text   NOT NULL,
    request_hash bytea  NOT NULL,
    PRIMARY KEY (scope, key)
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000);
CREATE INDEX idempotency_keys_created_at ON idempotency_keys (created_at);

-- Subscriptions that have fallen behind: everything of theirs up to `position` has been tried.
CREATE TABLE positions (
    subscription_id bigint PRIMARY KEY,
    position        uuid   NOT NULL
);

-- One row: everything up to it has been tried, the subscriptions in `positions` excepted.
CREATE TABLE watermark (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    id       uuid    NOT NULL
);

-- One row: the process that took the right to commit last. Who loses its connection and finds another's name here must
-- not go on: what it holds in memory is stale. (The right itself is an advisory lock.)
CREATE TABLE owner (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    process  uuid    NOT NULL
);

-- One row: which store this is. It is in the cache's keys, so that two stores behind one Redis cannot take each other's
-- subscriptions for their own.
CREATE TABLE identity (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    id       uuid    NOT NULL
);
INSERT INTO identity (id) VALUES (gen_random_uuid());

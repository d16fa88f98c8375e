-- The first delivery, of one that was sent again by hand: its id is what the receiver is told.
ALTER TABLE deliveries ADD COLUMN resend_of BLOB;

-- A subscription's deliveries, a stretch of 2,048 rows at a time, as those of the log (V6): a commit adds to the newest
-- stretch only.
CREATE INDEX deliveries_by_stretch ON deliveries (seq >> 11, subscription_id);

-- What has failed, by delivery and by subscription. Partial: an attempt that came through, or will be followed by another,
-- has no entry and pays nothing.
CREATE INDEX delivery_logs_failed ON delivery_logs (delivery_id) WHERE outcome = 2;
CREATE INDEX delivery_logs_failed_by_subscription ON delivery_logs (subscription_id, delivery_id) WHERE outcome = 2;

-- What a tenant has had, with what it has.
CREATE INDEX deleted_subscriptions_by_tenant ON deleted_subscriptions (tenant);

-- Jobs that send again what a subscription had between two ids, both inclusive. Everything below `position` is done; it moves in the
-- transaction that stores the new deliveries. AUTOINCREMENT: ids rise, also after the newest was deleted.
CREATE TABLE replays (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    subscription_id INTEGER NOT NULL,
    tenant TEXT NOT NULL,
    -- Words with commas between them.
    states TEXT NOT NULL,
    first BLOB NOT NULL,
    last BLOB NOT NULL,
    position BLOB NOT NULL,
    matched INTEGER NOT NULL DEFAULT 0,
    resent INTEGER NOT NULL DEFAULT 0,
    state TEXT NOT NULL DEFAULT 'running',
    detail TEXT,
    requested_at INTEGER NOT NULL,
    ended_at INTEGER
) STRICT;
-- One at a time.
CREATE UNIQUE INDEX replays_running ON replays (subscription_id) WHERE state = 'running';
CREATE INDEX replays_running_of_tenant ON replays (tenant) WHERE state = 'running';
CREATE INDEX replays_running_by_id ON replays (id) WHERE state = 'running';
CREATE INDEX replays_by_subscription ON replays (subscription_id, id);
CREATE INDEX replays_by_end ON replays (ended_at) WHERE ended_at IS NOT NULL;

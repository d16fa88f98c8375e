-- The first delivery, of one that was sent again by hand: its id is what the receiver is told.
ALTER TABLE deliveries ADD COLUMN resend_of uuid;

-- What has failed, by delivery and by subscription. Partial: an attempt that came through, or will be followed by another,
-- has no entry and pays nothing. Both are ordered by what no other index is, or the planner, who knows nothing of a new
-- partition, may go through all that succeeded: hence `>= 2`, since an equality drops out of the order, and the minus.
CREATE INDEX delivery_logs_failed ON delivery_logs (outcome, delivery_id) WHERE outcome >= 2;
CREATE INDEX delivery_logs_failed_subscription ON delivery_logs ((-subscription_id), delivery_id) WHERE outcome >= 2;

-- What a tenant has had, with what it has.
CREATE INDEX deleted_subscriptions_tenant ON deleted_subscriptions (tenant);

-- Jobs that send again what a subscription had between two ids, both inclusive. Everything below `position` is done; it moves in the
-- transaction that stores the new deliveries.
CREATE TABLE replays (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    subscription_id bigint NOT NULL,
    matched         bigint NOT NULL DEFAULT 0,
    resent          bigint NOT NULL DEFAULT 0,
    requested_at    bigint NOT NULL,
    ended_at        bigint,
    first           uuid   NOT NULL,
    last            uuid   NOT NULL,
    position        uuid   NOT NULL,
    tenant          text   NOT NULL,
    -- Words with commas between them.
    states          text   NOT NULL,
    state           text   NOT NULL DEFAULT 'running',
    detail          text
);
-- One at a time.
CREATE UNIQUE INDEX replays_running ON replays (subscription_id) WHERE state = 'running';
CREATE INDEX replays_running_tenant ON replays (tenant) WHERE state = 'running';
CREATE INDEX replays_running_id ON replays (id) WHERE state = 'running';
CREATE INDEX replays_subscription ON replays (subscription_id, id);
CREATE INDEX replays_ended_at ON replays (ended_at) WHERE ended_at IS NOT NULL;

-- What a subscription's owner has decided about its delivery: JSON (src/delivery/settings.rs). Text, not jsonb: it is only
-- ever read whole and by the service, jsonb cannot hold every string that JSON can, and both stores then hold the same.
ALTER TABLE subscriptions
    ADD COLUMN settings      text NOT NULL DEFAULT '{}',
    ADD COLUMN drop_through  uuid,
    ADD COLUMN failing_since bigint;

-- NULL if it is the event's.
ALTER TABLE deliveries ADD COLUMN ordering_key text;

-- When a subscription was enabled or disabled, and why.
CREATE TABLE state_changes (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    subscription_id bigint  NOT NULL,
    at              bigint  NOT NULL,
    announced       boolean NOT NULL DEFAULT false,
    tenant          text    NOT NULL,
    -- The reason; NULL when it was enabled.
    disabled        text,
    detail          text
);
CREATE INDEX state_changes_subscription ON state_changes (subscription_id, id);
CREATE INDEX state_changes_unannounced ON state_changes (id) WHERE NOT announced;

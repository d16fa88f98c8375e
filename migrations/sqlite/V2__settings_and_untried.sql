-- What a subscription's owner has decided about its delivery: JSON (src/delivery/settings.rs), only ever read whole.
ALTER TABLE subscriptions ADD COLUMN settings TEXT NOT NULL DEFAULT '{}';
ALTER TABLE subscriptions ADD COLUMN drop_through BLOB;
ALTER TABLE subscriptions ADD COLUMN failing_since INTEGER;

-- NULL if it is the event's. After the payload, because a table of any size can be given a last column at once; a NULL is
-- read without the pages between.
ALTER TABLE deliveries ADD COLUMN ordering_key TEXT;

-- Deliveries that no log row mentions, so that a subscription's backlog is a stretch of one index, and everything else pays
-- for nothing: a delivery leaves it a moment after it came, so the rows that come and go share a page, whereas an index of
-- all deliveries by subscription has every subscription's in another.
CREATE TABLE untried (
    subscription_id INTEGER NOT NULL,
    delivery_id BLOB NOT NULL,
    PRIMARY KEY (subscription_id, delivery_id)
) STRICT, WITHOUT ROWID;

-- What is up to the watermark has been tried, but for the subscriptions in `positions`: nothing older has to be looked at.
INSERT INTO untried (subscription_id, delivery_id)
SELECT d.subscription_id, d.id FROM deliveries d
WHERE d.id > coalesce((SELECT min(delivery_id) FROM (SELECT delivery_id FROM watermark UNION ALL SELECT delivery_id FROM positions)), x'')
    AND NOT EXISTS (SELECT 1 FROM delivery_logs l WHERE l.delivery_id = d.id);

-- Triggers, because what is untried follows from the two big tables and from nothing else, whoever writes to them.
CREATE TRIGGER delivery_is_untried AFTER INSERT ON deliveries BEGIN
    INSERT INTO untried (subscription_id, delivery_id) VALUES (new.subscription_id, new.id);
END;
CREATE TRIGGER delivery_was_tried AFTER INSERT ON delivery_logs BEGIN
    DELETE FROM untried WHERE subscription_id = new.subscription_id AND delivery_id = new.delivery_id;
END;
CREATE TRIGGER delivery_is_gone AFTER DELETE ON deliveries BEGIN
    DELETE FROM untried WHERE subscription_id = old.subscription_id AND delivery_id = old.id;
END;

DROP INDEX deliveries_by_subscription;

-- When a subscription was enabled or disabled, and why. AUTOINCREMENT: ids rise, also after the newest was deleted.
CREATE TABLE state_changes (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    subscription_id INTEGER NOT NULL,
    tenant TEXT NOT NULL,
    at INTEGER NOT NULL,
    -- The reason; NULL when it was enabled.
    disabled TEXT,
    detail TEXT,
    announced INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE INDEX state_changes_by_subscription ON state_changes (subscription_id);
CREATE INDEX state_changes_unannounced ON state_changes (id) WHERE announced = 0;

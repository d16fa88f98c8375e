-- The log by subscription, a stretch of 2,048 rows at a time (src/store/sqlite/status.rs). The newest stretch, which every
-- commit adds to, is a dozen pages of this index; by subscription alone, a commit wrote a page for each subscription in it.
DROP INDEX delivery_logs_by_subscription;
CREATE INDEX delivery_logs_by_stretch ON delivery_logs (seq >> 11, subscription_id);

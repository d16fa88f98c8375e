-- All that a subscription signs and verifies with: JSON of sealed texts (src/delivery/secrets.rs), only ever read whole. What
-- was there stays as it is, behind a word that says so, until `hookpost keys rotate-master` seals it.
ALTER TABLE subscriptions ADD COLUMN secrets TEXT;
UPDATE subscriptions SET secrets = json_object('current', 'plain:' || secret) WHERE secret IS NOT NULL;

-- The master keys that something may be sealed under, each with a proof that only it opens. `plain` stands for none.
CREATE TABLE master_keys (
    id TEXT NOT NULL PRIMARY KEY,
    proof TEXT NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO master_keys (id, proof)
SELECT 'plain', 'plain:hookpost' WHERE EXISTS (SELECT 1 FROM subscriptions WHERE secrets IS NOT NULL);

ALTER TABLE subscriptions DROP COLUMN secret;

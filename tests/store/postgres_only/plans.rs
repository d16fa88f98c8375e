//! What a page reads, in partitions of which the planner knows nothing.

use hookpost::delivery::{DeliveryState, SubscriptionId};
use hookpost::store::Search;

use super::*;

const ROWS: u32 = 12_000;
const PAGE: usize = 100;
/// Of each row of a page itself, its log, and what a partition's neighbours are asked for.
const MOST_READ: i64 = 4 * PAGE as i64;

/// Deliveries with a log row each over a day, in five partitions, of two subscriptions in turn. One in ten has failed. Nobody analyses them.
async fn fill(session: &Client, subs: [SubscriptionId; 2]) {
    let id = |digit| {
        format!(
            "(lpad(to_hex({} + n * 86400000::bigint / {ROWS}), 12, '0') || '70008{digit}' || lpad(to_hex(n), 14, '0'))::uuid",
            T0.0
        )
    };
    let (delivery, log) = (id('0'), id('1'));
    let subscription = format!("CASE n % 2 WHEN 0 THEN {} ELSE {} END", subs[0].0, subs[1].0);
    let sql = format!(
        "INSERT INTO deliveries (id, subscription_id, event_type, payload)
         SELECT {delivery}, {subscription}, 'order.created', '{{}}' FROM generate_series(1, {ROWS}) n;
         INSERT INTO delivery_logs (id, delivery_id, subscription_id, \"timestamp\", attempt_number, duration_ms, outcome, target_url)
         SELECT {log}, {delivery}, {subscription}, 0, 1, 5, CASE WHEN n % 20 < 2 THEN 2 ELSE 0 END, 'http://127.0.0.1:9/'
         FROM generate_series(1, {ROWS}) n;"
    );
    const UNKNOWN: &str = "DO $$ DECLARE name regclass; BEGIN
             FOR name IN SELECT oid FROM pg_class WHERE relkind = 'r' AND relname ~ '^deliver.*_[0-9]+$' LOOP
                 EXECUTE format('ALTER TABLE %s SET (autovacuum_enabled = false)', name);
             END LOOP;
         END $$";
    session.batch_execute(UNKNOWN).await.unwrap();
    session.batch_execute(&sql).await.unwrap();
}

/// Rows and index entries of the partitions that the service has read so far. Its sessions tell when they end.
async fn read_so_far(session: &Client) -> i64 {
    const SQL: &str =
        "SELECT (SELECT coalesce(sum(idx_tup_read), 0) FROM pg_stat_user_indexes WHERE relname ~ '^deliver.*_[0-9]+$')
             + (SELECT coalesce(sum(seq_tup_read), 0) FROM pg_stat_user_tables WHERE relname ~ '^deliver.*_[0-9]+$')";
    const OPEN: &str = "SELECT EXISTS (SELECT FROM pg_stat_activity
             WHERE datname = current_database() AND application_name = 'hookpost')";
    while session.query_one(OPEN, &[]).await.unwrap().get::<_, bool>(0) {
        end_sessions(session).await;
    }
    session.query_one(&format!("SELECT ({SQL})::bigint"), &[]).await.unwrap().get(0)
}

on_postgres! {
    async fn a_page_reads_about_what_it_shows_also_where_the_planner_knows_nothing(backend: &Backend) {
        let store = backend.owned().await;
        let subs = [subscribe(&store).await, subscribe(&store).await];
        store.close().await;
        let session = session(backend).await;
        fill(&session, subs).await;
        let states: [&[DeliveryState]; 3] = [&[], &[DeliveryState::Failed], &[DeliveryState::Delivered]];
        let middle = DeliveryId(id(days(1) / 2));
        for (states, subscription_id) in states.iter().flat_map(|states| [(states, None), (states, Some(subs[0]))]) {
            for (oldest_first, from_the_middle) in [(false, false), (true, false), (false, true), (true, true)] {
                let mut search = Search { subscription_id, states: states.to_vec(), oldest_first, ..Search::all() };
                match (from_the_middle, oldest_first) {
                    (true, true) => search.first = middle,
                    (true, false) => search.last = middle,
                    _ => {}
                }
                let before = read_so_far(&session).await;
                let store = backend.open();
                let step = store.search_step(&search, PAGE).await.unwrap();
                assert_eq!(step.examined, PAGE, "{search:?}");
                let read = read_so_far(&session).await - before;
                assert!((1..=MOST_READ).contains(&read), "{read} rows were read for {search:?}");
            }
        }
        let first: uuid::Uuid =
            session.query_one("SELECT id FROM deliveries ORDER BY id LIMIT 1", &[]).await.unwrap().get(0);
        let before = read_so_far(&session).await;
        assert!(backend.open().delivery(DeliveryId(first)).await.unwrap().unwrap().resends.is_empty());
        let read = read_so_far(&session).await - before;
        assert!((1..=MOST_READ).contains(&read), "{read} rows were read for one without resends");
    }
}

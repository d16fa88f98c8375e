//! `GET /deliveries` over ten million rows of log.

use super::{Bench, SUBSCRIPTIONS};
use crate::report::{Row, percentile};
use crate::{fill, producer};

/// What a page may take that an index leads to.
const INDEXED_MS: f64 = 10.0;
/// What a page may take that looks at as many rows as a page may.
const BOUNDED_MS: f64 = 100.0;
/// Pages of each kind.
const PAGES: usize = 200;

/// What is looked for, how long a page may take, and the query of the nth page.
type Kind<'a> = (&'static str, f64, &'a dyn Fn(usize) -> String);

impl Bench {
    pub(super) async fn search(&mut self, name: &str) -> anyhow::Result<()> {
        let rows = 10_000_000 / self.shrink;
        let subscriptions = fill::logged_subscriptions(rows);
        let home = self.registered_home(SUBSCRIPTIONS + subscriptions).await?;
        let database = home.database().await?;
        fill::delivered(&database, rows, fill::wall_ms(), true).await?;
        let deep = fill::some_deliveries(&database, i64::try_from(PAGES)?).await?;
        let service = self.service(&home).await?;
        let of = |n: usize| format!("subscription_id={}", SUBSCRIPTIONS + 1 + n % subscriptions);
        let cursor = |n: usize| format!("cursor={}", deep[n % deep.len()]);
        let kinds: [Kind<'_>; 13] = [
            ("everything", INDEXED_MS, &|_| String::new()),
            ("of a subscription", INDEXED_MS, &of),
            ("failed", INDEXED_MS, &|_| "state=failed".to_owned()),
            ("failed, of a subscription", INDEXED_MS, &|n| format!("state=failed&{}", of(n))),
            ("retrying", INDEXED_MS, &|_| "state=retrying".to_owned()),
            ("pending", INDEXED_MS, &|_| "state=pending".to_owned()),
            ("delivered", INDEXED_MS, &|_| "state=delivered".to_owned()),
            ("everything, deep", INDEXED_MS, &cursor),
            ("of a subscription, deep", INDEXED_MS, &|n| format!("{}&{}", of(n), cursor(n))),
            ("failed, deep", INDEXED_MS, &|n| format!("state=failed&{}", cursor(n))),
            ("delivered, of a subscription, deep", INDEXED_MS, &|n| format!("state=delivered&{}&{}", of(n), cursor(n))),
            ("an event type that nothing has", BOUNDED_MS, &|_| "event_type=rare".to_owned()),
            ("cancelled, of which there are none, deep", BOUNDED_MS, &|n| format!("state=cancelled&{}", cursor(n))),
        ];
        for (kind, most, query) in kinds {
            let paths: Vec<_> = (0..PAGES).map(|n| format!("/deliveries?{}", query(n))).collect();
            producer::get_each(service.addr, &paths[..paths.len() / 10]).await?;
            let took = producer::get_each(service.addr, &paths).await?;
            let figure = format!("a page, {kind}, p99");
            self.rows.push(Row::plain(name, &figure, "ms", vec![percentile(&took, 0.99)]).at_most(most));
        }
        service.kill().await?;
        home.remove().await
    }
}

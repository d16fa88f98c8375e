use super::super::stage::Stage;
use super::*;
use crate::delivery::{DisabledReason, Subscription};

const POSITION: DeliveryId = DeliveryId(uuid::Uuid::from_u128(17));

/// It stayed asked for ever: the limit of the backlog did not count, and a replay waited for it.
#[tokio::test]
async fn a_count_that_ended_with_its_actor_is_asked_for_again() {
    let stage = Stage::new().await;
    let entry = stage.entry();
    entry.start(Some(POSITION), None);
    assert!(entry.begin_count().is_some());
    assert!(entry.begin_count().is_none(), "it is asked already");
    entry.detach();
    entry.start(Some(POSITION), None);
    assert!(entry.begin_count().is_some());
}

fn with_row_and_caught_up(stage: &Stage) -> Arc<Entry> {
    let entry = stage.entry();
    entry.start(Some(POSITION), Some(0));
    entry.begin_page();
    entry.end_page(true, None).expect("the last page");
    entry
}

/// The next entry read the row, took it for durable, and did not hold the watermark back.
#[tokio::test]
async fn an_entry_whose_row_is_about_to_go_is_not_closed_before_it_has_gone() {
    let stage = Stage::new().await;
    let entry = with_row_and_caught_up(&stage);
    assert_eq!(entry.wanted_position(false), Some(None));
    assert!(!entry.try_close(true));
    entry.positioned(None);
    assert!(entry.try_close(true));
}

/// It kept it until its next event, and was started for it twice a minute.
#[tokio::test]
async fn a_row_goes_when_nothing_is_untried_however_far_the_watermark_is() {
    let stage = Stage::new().await;
    *stage.node.watermark() = DeliveryId::floor_at(stage.node.parts.clock.wall());
    let entry = with_row_and_caught_up(&stage);
    assert_eq!(entry.wanted_position(false), Some(None));
}

/// An update that was read before the actor's first success brought back since when all had failed.
#[tokio::test]
async fn a_change_leaves_since_when_all_has_failed_to_the_actor_unless_it_enables() {
    let stage = Stage::new().await;
    let entry = stage.entry();
    let changed = |version, disabled, failing_since| {
        let changed = Subscription { version, disabled, failing_since, ..stage.subscription.clone() };
        assert!(entry.reconfigure(stage.config(changed)));
        entry.config().subscription.failing_since
    };
    let (read, said) = (Some(Timestamp(1)), Some(Timestamp(2)));
    assert_eq!(changed(2, None, read), None);
    entry.set_failing_since(said);
    assert_eq!(changed(3, Some(DisabledReason::Failing), read), said);
    assert_eq!(changed(4, None, None), None);
    entry.set_failing_since(said);
    assert_eq!(changed(6, None, None), None, "it may have been disabled and enabled in between");
    assert_eq!(changed(8, None, read), None, "the actor knows better");
}

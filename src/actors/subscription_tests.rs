use std::time::Duration;

use tokio::time::timeout;

use super::super::stage::Stage;
use super::*;

async fn spawned(stage: &Stage, entry: &Arc<Entry>) -> (ActorRef<Message>, tokio::task::JoinHandle<()>) {
    Actor::spawn(None, SubscriptionActor, arguments(stage, entry)).await.unwrap()
}

fn arguments(stage: &Stage, entry: &Arc<Entry>) -> Arguments {
    Arguments { entry: entry.clone(), node: stage.node.clone(), supervisor: stage.supervisor.clone() }
}

/// The supervisor attached it after it was spawned. On a busy machine the actor had started by then, was taken for one that had
/// not, and nothing that was committed from then on came to it.
#[tokio::test]
async fn an_actor_is_attached_to_its_entry_before_anybody_else_goes_on() {
    let stage = Stage::new().await;
    let entry = stage.entry();
    let (actor, ended) = spawned(&stage, &entry).await;
    let (answer, snapshot) = oneshot::channel();
    assert!(entry.cast(Message::Snapshot(answer)), "the entry has no actor");
    snapshot.await.unwrap();
    actor.stop(None);
    ended.await.unwrap();
}

/// One message may save since when all has failed, and disable the subscription for it.
#[tokio::test]
async fn a_subscription_is_disabled_for_what_was_saved_with_the_same_message() {
    let stage = Stage::new().await;
    let entry = stage.entry();
    let (actor, _) = spawned(&stage, &entry).await;
    let mut state = SubscriptionActor.pre_start(actor.clone(), arguments(&stage, &entry)).await.unwrap();
    state.judged = Some(entry.config());
    state.perform(Action::SaveFailing(Some(Timestamp(0))), &actor);
    state.perform(Action::Disable(DisabledReason::Failing), &actor);
    let disabled = async {
        loop {
            let changes = stage.node.parts.store.state_changes(entry.id, None, 1).await.unwrap();
            match changes.into_iter().next() {
                Some(change) => break change.detail,
                None => tokio::task::yield_now().await,
            }
        }
    };
    let detail = timeout(Duration::from_secs(20), disabled).await.expect("it is disabled");
    assert_eq!(detail.as_deref(), Some("every attempt has failed since 1970-01-01T00:00:00.000Z"));
}

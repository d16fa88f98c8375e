use super::super::stage::Stage;
use super::*;

/// The supervisor attached it after it was spawned. On a busy machine the actor had started by then, was taken for one that had
/// not, and nothing that was committed from then on came to it.
#[tokio::test]
async fn an_actor_is_attached_to_its_entry_before_anybody_else_goes_on() {
    let stage = Stage::new().await;
    let entry = stage.entry();
    let arguments = Arguments { entry: entry.clone(), node: stage.node.clone(), supervisor: stage.supervisor.clone() };
    let (actor, ended) = Actor::spawn(None, SubscriptionActor, arguments).await.unwrap();
    let (answer, snapshot) = oneshot::channel();
    assert!(entry.cast(Message::Snapshot(answer)), "the entry has no actor");
    snapshot.await.unwrap();
    actor.stop(None);
    ended.await.unwrap();
}

//! The bare relay: the same warp and reqwest with an actor between them, and nothing else. No store, no signatures, no
//! check of the body, no retry, no log. What it costs is what the parts cost; the rest is ours.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use reqwest::{Client, Method, Request, Url};
use warp::Filter;

struct Relay;

struct State {
    client: Client,
    target: Url,
}

impl Actor for Relay {
    type Msg = Bytes;
    type State = State;
    type Arguments = State;

    async fn pre_start(&self, _: ActorRef<Bytes>, state: State) -> Result<State, ActorProcessingErr> {
        Ok(state)
    }

    async fn handle(&self, _: ActorRef<Bytes>, body: Bytes, state: &mut State) -> Result<(), ActorProcessingErr> {
        let mut request = Request::new(Method::POST, state.target.clone());
        *request.body_mut() = Some(body.into());
        let answer = state.client.execute(request);
        tokio::spawn(async move {
            if let Ok(answer) = answer.await {
                let _ = answer.bytes().await;
            }
        });
        Ok(())
    }
}

/// Serves until it is killed. One actor a subscription, as in the service.
pub async fn run(target: &str) -> anyhow::Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .tcp_nodelay(true)
        .timeout(Duration::from_secs(10))
        .build()?;
    let mut actors = Vec::new();
    for subscription in 1..=crate::scenarios::SUBSCRIPTIONS {
        let state = State { client: client.clone(), target: format!("{target}/{subscription}").parse()? };
        actors.push(Actor::spawn(None, Relay, state).await?.0);
    }
    let actors = std::sync::Arc::new(actors);
    let ingest =
        warp::post().and(warp::path!("ingest" / usize)).and(warp::body::bytes()).then(move |id: usize, body: Bytes| {
            let actors = actors.clone();
            async move {
                let sent = actors.get(id.wrapping_sub(1)).is_some_and(|actor| actor.cast(body).is_ok());
                let status = if sent { warp::http::StatusCode::ACCEPTED } else { warp::http::StatusCode::NOT_FOUND };
                Ok::<_, Infallible>(warp::reply::with_status("{}", status))
            }
        });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    eprintln!("listening on http://{}", listener.local_addr()?);
    warp::serve(ingest).incoming(listener).run().await;
    Ok(())
}

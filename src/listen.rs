//! `hookpost listen`: a small receiver that prints and verifies what it gets, and can fail on purpose.

/// Receive deliveries here.
#[derive(Clone, Debug, clap::Args)]
pub struct ListenArgs {}

/// Receives until Ctrl-C.
pub async fn run(_args: ListenArgs) -> anyhow::Result<()> {
    todo!()
}

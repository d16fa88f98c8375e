//! Stores of the simulation for the rules of `tests/store`, without faults.

use std::sync::Arc;

use hookpost::store::Store;

use crate::store::faults::Faults;
use crate::store::{Disk, SimStore};

/// A place for a store. Every [`Backend::process`] is a process of its own.
#[derive(Default)]
pub struct Backend(Arc<Disk>);

impl Backend {
    pub fn process(&self) -> Arc<dyn Store> {
        Arc::new(SimStore::open(self.0.clone(), Faults::default()))
    }

    /// What no rule that is run here asks for.
    pub async fn refuse_retries(&self) {
        panic!("this store refuses no single rows");
    }
}

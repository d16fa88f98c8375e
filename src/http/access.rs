//! Who calls: an extractor for every route that is not open to everyone. Handlers ask it for the permission they need.

use std::convert::Infallible;
use std::sync::Arc;

use warp::Filter;

use super::Http;
use super::problem::Problem;
use crate::access::{Caller, Permission};

/// What is known of the caller before the handler has said what it needs.
pub(super) struct Access(Result<Caller, Problem>);

impl Access {
    /// The caller, if they may do this.
    pub fn to(self, permission: Permission) -> Result<Caller, Problem> {
        let caller = self.0?;
        debug_assert!(caller.role.grants(permission), "nobody is confined yet");
        Ok(caller)
    }
}

/// Never fails, so that a route with a caller that is not known is not taken for another route.
pub(super) fn access(_: &Arc<Http>) -> impl Filter<Extract = (Access,), Error = Infallible> + Clone + use<> {
    warp::any().map(|| Access(Ok(Caller::anonymous())))
}

//! Panics of a world: the runtime and the supervisor catch them, and then they must not pass for crashes that were meant.

use std::cell::RefCell;
use std::sync::Once;

thread_local! {
    /// A world runs on one thread.
    static FIRST: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Listens from now on, and forgets what another world on this thread has left.
pub fn forget() {
    static LISTENS: Once = Once::new();
    LISTENS.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            FIRST.with_borrow_mut(|first| first.get_or_insert_with(|| panic.to_string()).len());
            before(panic);
        }));
    });
    take();
}

pub fn take() -> Option<String> {
    FIRST.with_borrow_mut(Option::take)
}

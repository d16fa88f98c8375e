//! Panics of a world: the runtime and the supervisor catch them, and then they must not pass for what was meant.

use std::cell::RefCell;
use std::sync::Once;

/// How the panics begin that a world makes itself.
const MEANT: &str = "as the seed says:";

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
            if panic.payload_as_str().is_some_and(|text| text.starts_with(MEANT)) {
                return;
            }
            FIRST.with_borrow_mut(|first| first.get_or_insert_with(|| panic.to_string()).len());
            before(panic);
        }));
    });
    take();
}

/// The first that was not meant.
pub fn take() -> Option<String> {
    FIRST.with_borrow_mut(Option::take)
}

/// One that is.
pub fn meant(what: &str) -> ! {
    panic!("{MEANT} {what} panics")
}

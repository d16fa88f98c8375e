//! The window: how many attempts may be under way at once. It grows by one a window's worth of quick successes and halves
//! when the receiver struggles, so that it finds what the receiver can take.

/// The window at the start: as much as a small server takes without a word, and not the whole of a large maximum.
const INITIAL_SIZE: usize = 8;

/// See the module's docs.
#[derive(Debug)]
pub(super) struct Window {
    size: usize,
    /// Successes that count towards the next place.
    credit: usize,
    /// Raised by every decrease.
    round: u32,
    /// Whether an attempt of this round has succeeded.
    succeeded: bool,
}

impl Window {
    pub fn new(max: usize) -> Self {
        // A receiver that has not been tried yet has the benefit of the doubt.
        Self { size: INITIAL_SIZE.min(max), credit: 0, round: 0, succeeded: true }
    }

    pub fn size(&self) -> usize {
        self.size
    }

    /// What an attempt that starts now remembers. All that were under way at a decrease are answered by that one
    /// decrease.
    pub fn round(&self) -> u32 {
        self.round
    }

    /// An attempt succeeded. `quick`: within the latency target. `full`: no place was free, so one more would be used.
    pub fn succeeded(&mut self, round: u32, quick: bool, full: bool, max: usize) {
        self.succeeded |= round == self.round;
        if quick && full && self.size < max {
            self.credit += 1;
            if self.credit >= self.size {
                self.credit = 0;
                self.size += 1;
            }
        }
    }

    /// An attempt showed that the receiver struggles.
    pub fn struggled(&mut self, round: u32) {
        if round == self.round {
            self.set(if self.succeeded { self.size / 2 } else { 1 });
        }
    }

    /// One at a time, from now on.
    pub fn close_down(&mut self) {
        self.set(1);
    }

    /// The maximum was changed.
    pub fn limit(&mut self, max: usize) {
        self.size = self.size.min(max);
    }

    fn set(&mut self, size: usize) {
        *self = Self { size: size.max(1), credit: 0, round: self.round.wrapping_add(1), succeeded: false };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 32;

    fn succeed(window: &mut Window, times: usize) {
        (0..times).for_each(|_| window.succeeded(window.round(), true, true, MAX));
    }

    #[test]
    fn it_starts_at_eight_or_at_a_lower_maximum() {
        assert_eq!((Window::new(MAX).size(), Window::new(3).size()), (8, 3));
    }

    #[test]
    fn it_grows_by_one_a_windows_worth_of_successes_up_to_the_maximum() {
        let mut window = Window::new(MAX);
        succeed(&mut window, 7);
        assert_eq!(window.size(), 8);
        succeed(&mut window, 1);
        assert_eq!(window.size(), 9);
        succeed(&mut window, 10_000);
        assert_eq!(window.size(), MAX);
    }

    #[test]
    fn slow_successes_and_unused_places_do_not_let_it_grow() {
        let mut window = Window::new(MAX);
        for _ in 0..100 {
            window.succeeded(0, false, true, MAX);
            window.succeeded(0, true, false, MAX);
        }
        assert_eq!(window.size(), 8);
    }

    #[test]
    fn it_halves_once_for_all_that_were_under_way() {
        let mut window = Window::new(MAX);
        let round = window.round();
        (0..8).for_each(|_| window.struggled(round));
        assert_eq!(window.size(), 4);
        succeed(&mut window, 1);
        window.struggled(window.round());
        assert_eq!(window.size(), 2);
    }

    #[test]
    fn without_a_success_since_the_last_decrease_it_falls_to_one_and_no_lower() {
        let mut window = Window::new(MAX);
        window.struggled(window.round());
        // Started before the decrease: it says nothing of what came after.
        window.succeeded(0, true, true, MAX);
        window.struggled(window.round());
        assert_eq!(window.size(), 1);
        window.struggled(window.round());
        assert_eq!(window.size(), 1);
    }

    #[test]
    fn a_lower_maximum_holds_at_once() {
        let mut window = Window::new(MAX);
        window.limit(2);
        assert_eq!(window.size(), 2);
    }
}

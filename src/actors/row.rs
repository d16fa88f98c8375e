//! A subscription's row in `positions`, as its entry sees it: asked for at one moment, durable at a later one.

use crate::delivery::DeliveryId;

/// While there is one, the watermark does not wait for the subscription.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Row {
    /// The watermark waits.
    #[default]
    Absent,
    /// A save is with the writer, perhaps behind a removal. It may be lost until it is durable, so the watermark still waits.
    Asked,
    /// Durable, up to here.
    Kept(DeliveryId),
    /// Its removal is with the writer. The watermark waits again, and a successor of the entry would take the row for its own.
    Leaving,
}

impl Row {
    /// Up to where it is durable.
    pub fn kept(self) -> Option<DeliveryId> {
        match self {
            Self::Kept(position) => Some(position),
            Self::Absent | Self::Asked | Self::Leaving => None,
        }
    }

    /// A save is handed to the writer.
    pub fn ask(&mut self) {
        if self.kept().is_none() {
            *self = Self::Asked;
        }
    }

    /// A removal is handed to the writer.
    pub fn leave(&mut self) {
        debug_assert!(self.kept().is_some(), "{self:?} is not there to leave");
        *self = Self::Leaving;
    }

    /// The writer has saved the row, or removed it. One that was overtaken by the other wish does not count.
    pub fn written(&mut self, position: Option<DeliveryId>) {
        *self = match (*self, position) {
            (Self::Asked | Self::Kept(_), Some(position)) => Self::Kept(position),
            (Self::Leaving, None) => Self::Absent,
            (row @ Self::Leaving, Some(_)) | (row @ Self::Asked, None) => row,
            (row @ (Self::Absent | Self::Kept(_)), _) => {
                debug_assert!(false, "{row:?}, and {position:?} is written though nobody asked");
                row
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: DeliveryId = DeliveryId::MIN;

    #[test]
    fn a_row_that_is_asked_for_is_kept_once_it_is_written() {
        let mut row = Row::default();
        row.ask();
        assert_eq!((row, row.kept()), (Row::Asked, None));
        row.written(Some(AT));
        assert_eq!(row.kept(), Some(AT));
        row.ask();
        assert_eq!(row, Row::Kept(AT), "an older row is as good while a newer one is written");
    }

    #[test]
    fn a_save_that_a_removal_has_overtaken_does_not_count() {
        let mut row = Row::Kept(AT);
        row.leave();
        row.written(Some(AT));
        assert_eq!(row, Row::Leaving);
        row.written(None);
        assert_eq!(row, Row::Absent);
    }

    #[test]
    fn a_removal_that_a_save_has_overtaken_does_not_count() {
        let mut row = Row::Leaving;
        row.ask();
        row.written(None);
        assert_eq!(row, Row::Asked);
        row.written(Some(AT));
        assert_eq!(row, Row::Kept(AT));
    }
}

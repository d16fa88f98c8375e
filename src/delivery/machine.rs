//! The delivery machine.

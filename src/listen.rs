//! `hookpost listen`: a small receiver that prints and verifies what it gets, and can fail on purpose.

//! The one HTTP client for attempts.

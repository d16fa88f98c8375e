//! The HTTP API, on warp.

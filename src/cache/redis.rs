//! Redis through fred.

/// The cache on Redis.
pub struct RedisCache {}

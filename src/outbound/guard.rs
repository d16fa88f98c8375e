//! Which targets are never reached. Pure over `IpAddr`; applied to URLs, and to what DNS answers.

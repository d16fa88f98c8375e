//! What an attacker would try, from outside and over real sockets; SECURITY.md names the test that holds each row.

mod bodies;
mod canary;
mod injection;
mod names;
mod own_port;
mod proxies;
mod raw;
mod targets;

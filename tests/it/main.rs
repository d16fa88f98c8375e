//! The whole service over real sockets and real stores; files mirror the routes and the promises.

mod access;
mod announcements;
mod app;
mod attacks;
mod audit;
mod bad_input;
mod crash;
mod cross_process;
mod delivery;
mod events;
mod isolation;
mod master_keys;
mod order;
mod process;
mod receiver;
mod repeating;
mod restart;
mod secrecy;
mod seed;
mod settings;
mod signatures;
mod tenants;
mod verifiers;

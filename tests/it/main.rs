//! The whole service over real sockets and real stores; files mirror the routes and the promises.

mod access;
mod announcements;
mod app;
mod bad_input;
mod crash;
mod cross_process;
mod delivery;
mod events;
mod isolation;
mod order;
mod receiver;
mod restart;
mod seed;
mod settings;
mod tenants;

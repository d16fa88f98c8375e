//! The real program under a producer's load, killed and stopped again and again, on both stores: nothing that it accepted
//! is lost, nothing is sent that it refused, and no more is sent twice than the design allows. `make torture` is the long
//! form.

#[path = "../ledger/mod.rs"]
mod ledger;

mod backlog;
mod cache;
mod clusters;
mod controls;
mod crashes;
mod owners;
mod settings;
mod stage;
mod starts;
mod verdicts;

//! waitdaemon: runs the last action of a Tinkerbell Workflow after the Workflow reported SUCCESS.
//!
//! The crate has two short journeys over one seam. `main.rs` picks the journey: [`handoff`] is the
//! action container's, [`waiter`] is the waiter's. Both handle containers through `lifecycle`;
//! the handoff finds its own container through `identity`. [`engine`] is the seam. docs/design.md
//! defines the terms.

#[cfg(target_env = "musl")]
mod backtrace;
pub mod bootloader;
pub mod choose;
pub mod command;
pub mod console;
pub mod end;
pub mod engine;
pub mod error;
mod failures;
pub mod handoff;
mod http;
mod identity;
mod lifecycle;
pub mod logging;
pub mod login;
pub mod machine;
pub mod names;
pub mod process;
pub mod reference;
pub mod report;
mod retry;
pub mod safe_moment;
pub mod settings;
pub mod signals;
#[cfg(test)]
mod simulation;
pub mod syslog;
pub mod ticket;
pub mod waiter;

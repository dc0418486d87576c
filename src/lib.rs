//! waitdaemon: runs the last action of a Tinkerbell Workflow after the Workflow reported SUCCESS.
//!
//! Two short journeys over one seam. `main.rs` picks the journey:
//! [`handoff`] is the action container's, [`waiter`] is the waiter's, [`engine`] is the seam.
//! The words are those of docs/design.md.

#[cfg(target_env = "musl")]
pub mod backtrace;
pub mod clock;
pub mod cmdline;
pub mod dry_run;
pub mod engine;
pub mod error;
pub mod handoff;
pub mod host;
pub mod http;
pub mod logging;
pub mod login;
pub mod names;
pub mod procfs;
pub mod reboot;
pub mod reference;
pub mod retry;
pub mod safe_moment;
pub mod settings;
pub mod signals;
pub mod syslog;
pub mod ticket;
pub mod waiter;

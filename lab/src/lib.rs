//! The basis of waitdaemon's tests, bench and demo: nested machines with real engines.

pub mod agent;
pub mod api;
pub mod captain;
pub mod disk;
pub mod docker;
pub mod image;
pub mod json_logs;
pub mod machine;
pub mod nest;
pub mod paths;
pub mod proxy;
pub mod registry;
pub mod reports;
pub mod smee;
pub mod suite;
pub mod syslog;
pub mod system;
pub mod tinkerbell;
pub mod until;
pub mod vm;
pub mod watch;

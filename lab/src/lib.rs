//! What waitdaemon's demo and tests stand on: nested machines with real engines, and images.

pub mod agent;
pub mod api;
pub mod captain;
pub mod image;
pub mod json_logs;
pub mod machine;
pub mod nest;
pub mod paths;
pub mod registry;
pub mod release;
pub mod smee;
pub mod tinkerbell;
pub mod until;
pub mod vm;
pub mod watch;

//! The machine, as a container with the host's PIDs sees it.

pub mod clock;
pub mod command_line;
pub mod filesystem;
pub mod kexec;
pub mod namespaces;
pub mod pidfd;
pub mod power;
pub mod procfs;
pub mod readable;

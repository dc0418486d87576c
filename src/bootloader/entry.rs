//! A boot loader entry. Pure.

/// What to boot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// The kernel's path.
    pub kernel: String,
    /// The paths of its initrds, in order.
    pub initrds: Vec<String>,
    /// The kernel's command line.
    pub command_line: String,
    /// Where the entry was found, in words for people.
    pub source: String,
}

//! Waits for a descriptor that becomes readable once: a timer that expires, a process that ends.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Watches a descriptor; nothing is ever read from it.
///
/// # Errors
/// If the kernel has no room for it (epoll_ctl(2)).
#[expect(
    deprecated,
    reason = "the new constructor is unsafe because any type could close its descriptor: OwnedFd keeps it"
)]
pub fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(descriptor, Interest::READABLE)
}

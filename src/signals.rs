//! SIGTERM and SIGINT: somebody wants us to stop.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Both signals, caught from now on. As PID 1 of a container nothing else would end us.
pub struct Stop {
    term: Signal,
    interrupt: Signal,
    came: bool,
}

impl Stop {
    /// Catches the signals.
    ///
    /// # Errors
    /// What sigaction(2) reports.
    pub fn catch() -> std::io::Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())?, came: false })
    }

    /// Waits for the next of them and names it.
    pub async fn next(&mut self) -> &'static str {
        let signal = tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        };
        self.came = true;
        signal
    }

    /// Waits for the first of them; returns at once where one came.
    pub async fn came(&mut self) {
        if !self.came {
            self.next().await;
        }
    }
}

//! SIGTERM and SIGINT: somebody wants us to stop.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Both signals, caught from now on. As PID 1 of a container nothing else would end us.
pub struct StopSignals {
    source: Source,
    received: bool,
}

enum Source {
    Kernel {
        term: Signal,
        interrupt: Signal,
    },
    /// A simulated process has no signals of its own.
    #[cfg(test)]
    Simulated(tokio::sync::mpsc::UnboundedReceiver<&'static str>),
}

impl StopSignals {
    /// Catches the signals.
    ///
    /// # Errors
    /// What sigaction(2) reports.
    pub fn catch() -> std::io::Result<Self> {
        let source =
            Source::Kernel { term: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? };
        Ok(Self { source, received: false })
    }

    /// Takes the signals of a simulated process.
    #[cfg(test)]
    pub fn simulated(signals: tokio::sync::mpsc::UnboundedReceiver<&'static str>) -> Self {
        Self { source: Source::Simulated(signals), received: false }
    }

    /// Waits for the next signal and returns its name.
    pub async fn next(&mut self) -> &'static str {
        let signal = match &mut self.source {
            Source::Kernel { term, interrupt } => tokio::select! {
                biased;
                _ = term.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            },
            #[cfg(test)]
            Source::Simulated(signals) => match signals.recv().await {
                Some(signal) => signal,
                None => std::future::pending().await,
            },
        };
        self.received = true;
        signal
    }

    /// Waits for the first signal; returns at once if one was received before.
    pub async fn received(&mut self) {
        if !self.received {
            self.next().await;
        }
    }
}

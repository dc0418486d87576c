//! The signals that a journey handles. SIGTERM and SIGINT tell us to stop. With SIGUSR1 the handoff
//! gives the waiter its word that it is about to exit 0.

use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

/// What a signal tells this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// To stop; the signal's name.
    Stop(&'static str),
    /// The handoff's word.
    Word,
}

/// The signals that this process catches. We are PID 1 of a container, so nothing else would end
/// us.
pub struct Signals {
    source: Source,
    stopped: bool,
}

enum Source {
    Kernel {
        term: Stream,
        interrupt: Stream,
        word: Stream,
    },
    /// A simulated process has no signals of its own.
    #[cfg(test)]
    Simulated(tokio::sync::mpsc::UnboundedReceiver<Signal>),
}

impl Signals {
    /// Catches the signals.
    ///
    /// # Errors
    /// If sigaction(2) fails.
    pub fn catch() -> std::io::Result<Self> {
        let source = Source::Kernel {
            term: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            word: signal(SignalKind::user_defined1())?,
        };
        Ok(Self { source, stopped: false })
    }

    /// Takes the signals of a simulated process.
    #[cfg(test)]
    pub fn simulated(signals: tokio::sync::mpsc::UnboundedReceiver<Signal>) -> Self {
        Self { source: Source::Simulated(signals), stopped: false }
    }

    /// Waits for the next signal; one that stops us takes precedence.
    pub async fn next(&mut self) -> Signal {
        let signal = match &mut self.source {
            Source::Kernel { term, interrupt, word } => tokio::select! {
                biased;
                _ = term.recv() => Signal::Stop("SIGTERM"),
                _ = interrupt.recv() => Signal::Stop("SIGINT"),
                _ = word.recv() => Signal::Word,
            },
            #[cfg(test)]
            Source::Simulated(signals) => match signals.recv().await {
                Some(signal) => signal,
                None => std::future::pending().await,
            },
        };
        self.stopped |= signal != Signal::Word;
        signal
    }

    /// Waits for the next signal that stops us and returns its name.
    pub async fn next_stop(&mut self) -> &'static str {
        loop {
            if let Signal::Stop(name) = self.next().await {
                return name;
            }
        }
    }

    /// Waits for the first signal that stops us; returns at once if it was received before.
    pub async fn stopped(&mut self) {
        if !self.stopped {
            self.next_stop().await;
        }
    }
}

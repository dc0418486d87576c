//! Why a request to the engine failed, and whether it is worth another try. Pure.

use std::io;

use crate::retry::{Retry, Transient};

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The connection could not be made.
    #[error("cannot connect to {host}")]
    Connect {
        /// The address.
        host: String,
        /// The error of connect(2).
        source: io::Error,
    },
    /// The connection broke before the answer was complete.
    #[error("{request}: the connection broke")]
    Broken {
        /// Method and path.
        request: String,
        /// The HTTP error.
        source: hyper::Error,
    },
    /// The answer did not arrive in time.
    #[error("{request}: no answer within {seconds} s")]
    Late {
        /// Method and path.
        request: String,
        /// The limit.
        seconds: u64,
    },
    /// The engine refused the request.
    #[error("{message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The engine's message.
        message: String,
    },
    /// The answer is not the JSON that the API promises.
    #[error("{request}: the answer is not JSON")]
    NotJson {
        /// Method and path.
        request: String,
        /// Where the JSON is invalid.
        source: serde_json::Error,
    },
    /// The answer does not contain what was asked for.
    #[error("{request}: the answer is empty")]
    Empty {
        /// Method and path.
        request: String,
    },
    /// The engine is older than Docker 20.10.
    #[error("the engine's API version {0:?} is older than 1.41 (Docker 20.10)")]
    TooOld(String),
}

impl Transient for ApiError {
    fn retry(&self) -> Retry {
        use io::ErrorKind::{
            BrokenPipe, ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable,
            TimedOut, WouldBlock,
        };
        match self {
            // WouldBlock: the engine's connection queue is full (connect(2), EAGAIN).
            Self::Connect { source, .. } => match source.kind() {
                ConnectionRefused | ConnectionReset | TimedOut | BrokenPipe | WouldBlock
                | HostUnreachable | NetworkUnreachable => Retry::UntilDeadline,
                _ => Retry::Never,
            },
            Self::Broken { .. } | Self::Late { .. } | Self::NotJson { .. } | Self::Empty { .. } => {
                Retry::UntilDeadline
            }
            Self::Refused { status: 502..=504 | 429, .. } => Retry::UntilDeadline,
            // The engine uses this status for much: for what it cannot do at this moment, and for
            // what it never can.
            Self::Refused { status: 500, .. } => Retry::AFewTimes,
            Self::Refused { .. } | Self::TooOld(_) => Retry::Never,
        }
    }
}

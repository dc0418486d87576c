//! A refusal in the seam's own terms. Each engine reads its own words in a file of this name.

use crate::retry::{Retry, Transient};

/// A refusal: the engine did not do what it was asked to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{said}")]
pub struct Refusal {
    /// What it means.
    pub kind: Kind,
    /// The engine's own words, or why it could not be asked.
    pub said: String,
}

/// What a refusal means, independent of the engine's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// The container, or the process to wait for, does not exist (any more).
    Gone,
    /// Another container has this name.
    NameTaken {
        /// The other container's ID, if the engine gives it.
        by: Option<String>,
    },
    /// There is no command to run.
    NoCommand,
    /// The command is not in the image, or is not executable.
    NotExecutable,
    /// The image is not on this machine.
    ImageMissing,
    /// The image's name is not valid.
    NotAnImageName,
    /// The registry has the image for other platforms only.
    WrongPlatform,
    /// The registry's certificate is not trusted, or it has none.
    Untrusted,
    /// The container is already being removed.
    RemovalInProgress,
    /// A setting of the action cannot be carried over.
    NotCarried,
    /// Another final answer.
    Final,
    /// An unrecognized answer, which may be final or may pass.
    Unrecognized,
    /// The request may succeed a little later.
    MayPass(Retry),
}

impl Refusal {
    /// Creates a refusal of this kind, in these words.
    pub fn new(kind: Kind, said: impl Into<String>) -> Self {
        Self { kind, said: said.into() }
    }

    /// Creates the refusal of what may succeed a little later.
    pub fn passing(said: impl Into<String>) -> Self {
        Self::new(Kind::MayPass(Retry::UntilDeadline), said)
    }

    /// True if the container does not exist.
    pub fn is_gone(&self) -> bool {
        self.kind == Kind::Gone
    }
}

impl Transient for Refusal {
    fn retry(&self) -> Retry {
        match self.kind {
            Kind::MayPass(retry) => retry,
            Kind::RemovalInProgress => Retry::UntilDeadline,
            _ => Retry::Never,
        }
    }
}

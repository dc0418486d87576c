//! Failures, in the form in which people read them in a remote log.

use std::error::Error as StdError;
use std::fmt::Display;

/// Exit codes. They are an interface, documented in docs/reference.md.
pub mod exit {
    /// The handoff failed; the action reports FAILED.
    pub const HANDOFF_FAILED: u8 = 1;
    /// The waiter failed; the user container did not run, or failed while it was watched.
    pub const WAITER_FAILED: u8 = 2;
    /// No container engine could be reached.
    pub const NO_ENGINE: u8 = 12;
    /// The waiter was told to stop while its engine was unavailable, or before it was armed; the
    /// engine starts it again (`EX_TEMPFAIL` of sysexits.h).
    pub const INTERRUPTED: u8 = 75;
    /// A setting is invalid (`EX_CONFIG` of sysexits.h).
    pub const INVALID_SETTINGS: u8 = 78;
}

/// One failure: what happened, which template field it is about, how to fix it, and the cause.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What could not be done, in words.
    pub message: String,
    /// The field of the Action in the Template, such as `environment.IMAGE`, or empty.
    pub field: &'static str,
    /// What the reader can do, or empty.
    pub fix: String,
    /// The underlying error, if there is one.
    #[source]
    pub cause: Option<Box<dyn StdError + Send + Sync>>,
}

impl Failure {
    /// Creates a failure with no field, fix or cause yet.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), field: "", fix: String::new(), cause: None }
    }

    /// Adds the template field at fault.
    pub fn field(mut self, field: &'static str) -> Self {
        self.field = field;
        self
    }

    /// Adds the fix.
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = fix.into();
        self
    }

    /// Adds the underlying error.
    pub fn cause(mut self, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// Returns the causes as [`chain`] shows them, or an empty text.
    pub fn causes(&self) -> String {
        self.source().map(chain).unwrap_or_default()
    }
}

/// Joins an error and its causes, from the nearest to the root, with `: `. A cause that only
/// repeats the text before it is left out.
pub fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        if !texts.last().is_some_and(|last| last.ends_with(&text)) {
            texts.push(text);
        }
        next = error.source();
    }
    texts.join(": ")
}

/// Turns any error into a [`Failure`] with a sentence in front.
pub trait Context<T> {
    /// Returns the value, or a [`Failure`] that says `message` with the error as its cause.
    fn context(self, message: impl Display) -> Result<T, Failure>;
}

impl<T, E: Into<Box<dyn StdError + Send + Sync>>> Context<T> for Result<T, E> {
    fn context(self, message: impl Display) -> Result<T, Failure> {
        self.map_err(|cause| Failure::new(message.to_string()).cause(cause))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_listed_once_from_near_to_root() {
        let root = std::io::Error::from_raw_os_error(2);
        let near = Failure::new("cannot open the socket").cause(root);
        let top = Failure::new("no engine").cause(near);
        assert_eq!(top.causes(), "cannot open the socket: No such file or directory (os error 2)");
        assert_eq!(Failure::new("alone").causes(), "");
    }
}

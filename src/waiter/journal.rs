//! The waiter's journal: what it has seen and done, so that a later life of it goes on from there.
//!
//! A fact a line, each added in one write(2). It lies in a folder that goes with the waiter's container, and outlives
//! the waiter's process and its engine, not the machine.

use std::cell::Cell;
use std::io;

use crate::machine::clock::Moment;
use crate::names::WORD;
use crate::process::Kept;

/// What is noted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// The waiter is about to say that it is armed; the user container's ID.
    Armed(String),
    /// The handoff gave its word: it is about to exit 0.
    Word,
    /// The action's success is known, since this moment. The wait counts from it.
    Succeeded(Moment),
    /// The user container is not to run, and is about to be removed.
    Cancelled,
    /// The wait is over; the user container is about to be started.
    Starting,
    /// It was started.
    Started,
    /// It ended with success; what is left to do is to remove it and the waiter.
    Done,
}

/// What a journal says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    /// An earlier life was armed; the user container's ID.
    pub armed: Option<String>,
    /// The handoff gave its word.
    pub word: bool,
    /// When the action's success was known.
    pub succeeded: Option<Moment>,
    /// The user container is not to run.
    pub cancelled: bool,
    /// The wait is over.
    pub starting: bool,
    /// The user container was started.
    pub started: bool,
    /// It ended with success.
    pub done: bool,
}

/// The journal of this waiter.
pub struct Journal {
    kept: Option<Kept>,
    broken: Cell<bool>,
}

impl Journal {
    /// The journal that is kept there.
    pub fn of(kept: Kept) -> Self {
        Self { kept: Some(kept), broken: Cell::new(false) }
    }

    /// A journal that keeps nothing.
    pub fn lost() -> Self {
        Self { kept: None, broken: Cell::new(false) }
    }

    /// Notes a fact. If it cannot be kept that is said once, and the waiter goes on without.
    pub fn note(&self, fact: &Fact) {
        let Err(error) = self.keep(fact) else { return };
        if !self.broken.replace(true) {
            tracing::warn!(%error, "cannot write the waiter's journal; ended and started again, it will not know all it did");
        }
    }
}

impl Journal {
    /// Keeps a fact, if there is a place for it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn keep(&self, fact: &Fact) -> io::Result<()> {
        let Some(kept) = &self.kept else { return Ok(()) };
        // What could not be written before may have left a piece of a line.
        let end = if self.broken.get() { "\n" } else { "" };
        (kept.add)(&format!("{end}{}", fact.line()))
    }

    /// What it says by now: the handoff may write there, too.
    pub fn memory(&self) -> Memory {
        let lines = self.kept.as_ref().and_then(|kept| (kept.read)().ok());
        Memory::read(&lines.unwrap_or_default())
    }
}

impl Fact {
    fn line(&self) -> String {
        match self {
            Self::Armed(user) => format!("armed {user}"),
            Self::Word => WORD.into(),
            Self::Succeeded(since) => format!("succeeded {}", since.nanoseconds()),
            Self::Cancelled => "cancelled".into(),
            Self::Starting => "starting".into(),
            Self::Started => "started".into(),
            Self::Done => "done".into(),
        }
    }
}

impl Memory {
    /// Reads a journal. A line that was cut is none. Pure.
    fn read(lines: &str) -> Self {
        let mut memory = Self::default();
        for line in lines.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
            match line.split_once(' ').unwrap_or((line, "")) {
                ("armed", user) => memory.armed = Some(user.to_owned()),
                (WORD, _) => memory.word = true,
                ("succeeded", since) => memory.succeeded = since.parse().ok().map(Moment::from_nanoseconds),
                ("cancelled", _) => memory.cancelled = true,
                ("starting", _) => memory.starting = true,
                ("started", _) => memory.started = true,
                ("done", _) => memory.done = true,
                _ => {}
            }
        }
        memory
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_is_remembered() {
        let since = Moment::from_nanoseconds(12_345_678_901);
        let facts = [Fact::Armed("ab".into()), Fact::Word, Fact::Succeeded(since), Fact::Starting, Fact::Started];
        let lines: String = facts.iter().map(|fact| fact.line() + "\n").collect();
        let memory = Memory::read(&lines);
        let expected = Memory {
            armed: Some("ab".into()),
            word: true,
            succeeded: Some(since),
            cancelled: false,
            starting: true,
            started: true,
            done: false,
        };
        assert_eq!(memory, expected);
        assert!(Memory::read("cancelled\n").cancelled && Memory::read("done\n").done);
    }

    #[test]
    fn a_line_that_was_cut_is_none() {
        assert_eq!(Memory::read("armed ab\nsucceeded 12"), Memory { armed: Some("ab".into()), ..Memory::default() });
        assert_eq!(Memory::read(""), Memory::default());
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read(text: String) {
            let _ = Memory::read(&text);
        }
    }
}

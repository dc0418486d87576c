//! The waiter's journal: what it has seen and done, so that a restarted waiter goes on from there.
//!
//! Each line is a fact, added in one write(2). The journal is in a folder that is removed with the
//! waiter's container. It outlives the waiter's process and its engine; a power failure may cut it.

use std::cell::Cell;
use std::io;

use crate::end::End;
use crate::machine::clock::Moment;
use crate::names::WORD;
use crate::process::JournalFile;

/// A fact that is noted in the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// The waiter is about to say that it is armed; the user container's ID, if there is one.
    Armed(Option<String>),
    /// The handoff gave its word: it is about to exit 0.
    Word,
    /// The action's success has been known since this moment, from which the wait counts.
    Succeeded(Moment),
    /// The user container must not run and is about to be removed.
    Cancelled,
    /// The wait is over: in the boot with this ID, the user container is about to be started, or the
    /// machine to be ended.
    Starting(String),
    /// The user container was started.
    Started,
    /// The user's work failed at this moment, or ended although the machine still runs. The
    /// fallback counts from it.
    Failed(Moment),
    /// The machine is about to be asked, from this moment on, for this end.
    Ending(Moment, End),
    /// The user container ended with success; all that is left is to remove it and the waiter.
    Done,
}

/// What a journal says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    /// An earlier run was armed.
    pub armed: bool,
    /// The user container's ID.
    pub user: Option<String>,
    /// The handoff gave its word.
    pub word: bool,
    /// When the action's success became known.
    pub succeeded: Option<Moment>,
    /// The user container must not run.
    pub cancelled: bool,
    /// The boot in which the wait was over and what was to be done began.
    pub starting: Option<String>,
    /// The user container was started.
    pub started: bool,
    /// The moment from which the fallback counts.
    pub failed: Option<Moment>,
    /// The end that was requested, and since when.
    pub ending: Option<(Moment, End)>,
    /// The user container ended with success.
    pub done: bool,
}

/// The journal of this waiter.
pub struct Journal {
    kept: Option<JournalFile>,
    /// True if the last line may be partial: it was cut, or a write failed.
    cut: Cell<bool>,
    warned: Cell<bool>,
}

impl Journal {
    /// Creates a journal on these kept lines.
    pub fn of(kept: JournalFile) -> Self {
        let cut = (kept.read)().is_ok_and(|lines| !lines.is_empty() && !lines.ends_with('\n'));
        Self { kept: Some(kept), cut: Cell::new(cut), warned: Cell::new(false) }
    }

    /// Creates a journal that keeps nothing.
    pub fn lost() -> Self {
        Self { kept: None, cut: Cell::new(false), warned: Cell::new(false) }
    }

    /// Notes a fact. If it cannot be written, warns once, and the waiter goes on without it.
    pub fn note(&self, fact: &Fact) {
        let Err(error) = self.keep(fact) else { return };
        self.cut.set(true);
        if !self.warned.replace(true) {
            log::warn!(error = error.to_string().as_str(); "cannot write the waiter's journal; if it is started again, it will not remember everything it did");
        }
    }

    /// Writes a fact, if there is a place for it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn keep(&self, fact: &Fact) -> io::Result<()> {
        let Some(kept) = &self.kept else { return Ok(()) };
        let end = if self.cut.get() { "\n" } else { "" };
        (kept.add)(&format!("{end}{}", fact.line()))
    }

    /// Returns what the journal says now; the handoff may write to it, too.
    pub fn memory(&self) -> Memory {
        let lines = self.kept.as_ref().and_then(|kept| (kept.read)().ok());
        Memory::read(&lines.unwrap_or_default())
    }
}

impl Fact {
    fn line(&self) -> String {
        match self {
            Self::Armed(Some(user)) => format!("armed {user}"),
            Self::Armed(None) => "armed".into(),
            Self::Word => WORD.into(),
            Self::Succeeded(since) => format!("succeeded {}", since.nanoseconds()),
            Self::Cancelled => "cancelled".into(),
            Self::Starting(boot) => format!("starting {boot}"),
            Self::Started => "started".into(),
            Self::Failed(since) => format!("failed {}", since.nanoseconds()),
            Self::Ending(since, end) => format!("ending {} {}", since.nanoseconds(), end.name()),
            Self::Done => "done".into(),
        }
    }
}

impl Memory {
    /// Reads a journal. A line that was cut off does not count. Pure.
    fn read(lines: &str) -> Self {
        let mut memory = Self::default();
        let moment = |text: &str| text.parse().ok().map(Moment::from_nanoseconds);
        for line in lines.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
            match line.split_once(' ').unwrap_or((line, "")) {
                ("armed", user) => {
                    memory.armed = true;
                    memory.user = Some(user.to_owned()).filter(|user| !user.is_empty());
                }
                (WORD, _) => memory.word = true,
                ("succeeded", since) => memory.succeeded = moment(since),
                ("cancelled", _) => memory.cancelled = true,
                ("starting", boot) => memory.starting = Some(boot.to_owned()),
                ("started", _) => memory.started = true,
                ("failed", since) => {
                    memory.failed = moment(since);
                    // This end is what failed.
                    memory.ending = None;
                }
                ("ending", rest) => {
                    let (since, end) = rest.split_once(' ').unwrap_or_default();
                    memory.ending = moment(since).zip(End::from_name(end));
                }
                ("done", _) => memory.done = true,
                _ => {}
            }
        }
        memory
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    #[test]
    fn what_is_noted_is_remembered() {
        let since = Moment::from_nanoseconds(12_345_678_901);
        let facts = [
            Fact::Armed(Some("ab".into())),
            Fact::Word,
            Fact::Succeeded(since),
            Fact::Starting("boot-1".into()),
            Fact::Started,
            Fact::Failed(since),
            Fact::Ending(since, End::PowerOff),
        ];
        let lines: String = facts.iter().map(|fact| fact.line() + "\n").collect();
        let memory = Memory::read(&lines);
        let expected = Memory {
            armed: true,
            user: Some("ab".into()),
            word: true,
            succeeded: Some(since),
            cancelled: false,
            starting: Some("boot-1".into()),
            started: true,
            failed: Some(since),
            ending: Some((since, End::PowerOff)),
            done: false,
        };
        assert_eq!(memory, expected);
        assert!(Memory::read("cancelled\n").cancelled && Memory::read("done\n").done);
    }

    #[test]
    fn an_end_that_failed_is_not_asked_for_again() {
        let since = Moment::from_nanoseconds(5);
        let lines =
            [Fact::Ending(since, End::Kexec), Fact::Failed(since)].map(|fact| fact.line() + "\n");
        let memory = Memory::read(&lines.concat());
        assert_eq!((memory.failed, memory.ending), (Some(since), None));
    }

    #[test]
    fn a_line_that_was_cut_is_none() {
        let armed = Memory { armed: true, ..Memory::default() };
        assert_eq!(
            Memory::read("armed ab\nsucceeded 12"),
            Memory { user: Some("ab".into()), ..armed.clone() }
        );
        assert_eq!(Memory::read(&format!("{}\n", Fact::Armed(None).line())), armed);
        assert_eq!(Memory::read(""), Memory::default());
    }

    #[test]
    fn a_cut_line_does_not_swallow_the_next() {
        let lines = Rc::new(RefCell::new("armed ab\nsucc".to_owned()));
        let (read, added) = (lines.clone(), lines.clone());
        let journal = Journal::of(JournalFile {
            read: Box::new(move || Ok(read.borrow().clone())),
            add: Box::new(move |line| {
                added.borrow_mut().push_str(&format!("{line}\n"));
                Ok(())
            }),
        });
        journal.note(&Fact::Done);
        assert!(journal.memory().done && journal.memory().armed, "{}", lines.borrow());
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read(text: String) {
            let _ = Memory::read(&text);
        }
    }
}

//! Names and labels: what belongs to which action, for us and for people.

use serde::{Deserialize, Serialize};

/// Label: `waiter` or `user`.
pub const LABEL_ROLE: &str = "waitdaemon.role";
/// Label: the action container's name. The Tink Agent gives the same action the same name again.
pub const LABEL_ACTION: &str = "waitdaemon.action";
/// Label: the [`HandoffId`] that made the container.
pub const LABEL_HANDOFF: &str = "waitdaemon.handoff";
/// Label: the ID of the action container that made the container. While that runs, its handoff is under way.
pub const LABEL_MADE_BY: &str = "waitdaemon.made-by";

/// The path of the waiter's program in the image: a link to `/waitdaemon`. The role is told by the
/// program's name, so no argument and no variable of the action can be taken for it.
pub const WAITER_PROGRAM: &str = "/waiter";

/// Where a waiter on Docker has a volume of its own, for its journal. In our image this folder is anybody's, and so is
/// the volume then: the action may not run as root.
pub const JOURNAL_FOLDER: &str = "/journal";

/// The waiter's journal, in a folder that goes with its container.
pub const JOURNAL_FILE: &str = "waitdaemon-journal";
/// Its line for the handoff's word.
pub const WORD: &str = "word";

/// What one of our containers is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Waits, starts, watches.
    Waiter,
    /// Made from `IMAGE`.
    User,
}

impl Role {
    /// The role as the label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiter => "waiter",
            Self::User => "user",
        }
    }

    /// The role of a label's value.
    pub fn of(label: &str) -> Option<Self> {
        [Self::Waiter, Self::User].into_iter().find(|role| role.as_str() == label)
    }

    /// The container's name for an action: `<action>-waiter` or `<action>-user`.
    pub fn container_name(self, action: &str) -> String {
        format!("{action}-{}", self.as_str())
    }

    /// The labels of a container in this role.
    pub fn labels(self, action: &str, handoff: &HandoffId, made_by: &str) -> [(&'static str, String); 4] {
        [
            (LABEL_ROLE, self.as_str().into()),
            (LABEL_ACTION, action.into()),
            (LABEL_HANDOFF, handoff.0.clone()),
            (LABEL_MADE_BY, made_by.into()),
        ]
    }
}

/// One handoff's own random mark: 32 hexadecimal digits. It labels what the handoff made and is
/// the word by which the action container proves which container it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandoffId(String);

impl HandoffId {
    /// A new mark from the kernel's random numbers.
    ///
    /// # Errors
    /// What getrandom(2) reports; not seen on any machine that has booted.
    pub fn random() -> std::io::Result<Self> {
        let mut bytes = [0; 16];
        // Up to 256 bytes come whole and uninterrupted: getrandom(2).
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
        Ok(Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    /// The mark as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_differ_and_are_hexadecimal() {
        let (one, other) = (HandoffId::random().unwrap(), HandoffId::random().unwrap());
        assert_ne!(one, other);
        assert!(one.as_str().len() == 32 && one.as_str().bytes().all(|b| b.is_ascii_hexdigit()));
    }
}

//! Names and labels: they tell us, and people, what belongs to which action.

/// Label: the container's role, `waiter` or `user`.
pub const LABEL_ROLE: &str = "waitdaemon.role";
/// Label: the action container's name. The Tink Agent gives the same action the same name again.
pub const LABEL_ACTION: &str = "waitdaemon.action";
/// Label: the [`HandoffId`] that made the container.
pub const LABEL_HANDOFF: &str = "waitdaemon.handoff";
/// Label: the ID of the action container that made the container. While the action container runs,
/// its handoff is under way.
pub const LABEL_MADE_BY: &str = "waitdaemon.made-by";

/// Label: the [`RequestMark`] of what the action asked for.
pub const LABEL_REQUEST: &str = "waitdaemon.request";

/// The path of the waiter's program in the image: a link to `/waitdaemon`. The program's name tells
/// the role, so no argument or variable of the action can be mistaken for it.
pub const WAITER_PROGRAM: &str = "/waiter";

/// Where a waiter on Docker has a volume of its own, for its journal. Anybody can write to this
/// folder of our image, and so to the volume, because the action may not run as root.
pub const JOURNAL_FOLDER: &str = "/journal";

/// The file of the waiter's journal, in a folder that is removed with its container.
pub const JOURNAL_FILE: &str = "waitdaemon-journal";
/// The journal's line for the handoff's word.
pub const WORD: &str = "word";

/// The role of one of our containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Waits, starts, watches.
    Waiter,
    /// Made from `IMAGE`.
    User,
}

impl Role {
    /// Returns the label's value for the role.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiter => "waiter",
            Self::User => "user",
        }
    }

    /// Returns the role for a label's value.
    pub fn from_label(label: &str) -> Option<Self> {
        [Self::Waiter, Self::User].into_iter().find(|role| role.as_str() == label)
    }

    /// Returns the container's name for an action: `<action>-waiter` or `<action>-user`.
    pub fn container_name(self, action: &str) -> String {
        format!("{action}-{}", self.as_str())
    }

    /// Returns the labels of a container in this role.
    pub fn labels(self, origin: &Origin<'_>) -> [(&'static str, String); 5] {
        [
            (LABEL_ROLE, self.as_str().into()),
            (LABEL_ACTION, origin.action.into()),
            (LABEL_HANDOFF, origin.handoff.0.clone()),
            (LABEL_MADE_BY, origin.made_by.into()),
            (LABEL_REQUEST, origin.request.0.clone()),
        ]
    }
}

/// What one of our containers was made for.
pub struct Origin<'a> {
    /// The action container's name.
    pub action: &'a str,
    /// The handoff.
    pub handoff: &'a HandoffId,
    /// The action container's ID.
    pub made_by: &'a str,
    /// What the action asked for.
    pub request: &'a RequestMark,
}

/// The mark of what an action asks for: equal for equal variables and arguments. An agent may give
/// another action the same name (tink-worker, before Tinkerbell v0.21, leaves the ID out).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RequestMark(pub String);

impl RequestMark {
    /// Computes the mark of these arguments and variables, each a name and a value, in any order.
    /// Variables that only concern the handoff and the wait do not count, nor does HOSTNAME, which
    /// engines set for each container.
    pub fn of<'a>(
        arguments: impl IntoIterator<Item = &'a [u8]>,
        variables: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Self {
        let is_ours = |name: &[u8]| {
            name.starts_with(b"WAITDAEMON_") || [&b"WAIT_SECONDS"[..], b"HOSTNAME"].contains(&name)
        };
        let own = variables.into_iter().filter(|(name, _)| !is_ours(name));
        // A sum, so that their order does not matter.
        let of_variables =
            own.fold(0_u64, |sum, (name, value)| sum.wrapping_add(hash([&b"="[..], name, value])));
        Self(format!("{:016x}", hash(arguments).wrapping_add(of_variables)))
    }
}

/// Hashes the parts, each with an end marker, by FNV-1a. That suffices to tell apart what nobody
/// forges; a cryptographic hash has some thousand bytes of code.
fn hash<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    let bytes = parts.into_iter().flat_map(|part| part.iter().chain(&[0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// One handoff's own random mark: 32 hexadecimal digits. It labels what the handoff made, and with
/// it the action container proves which container it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandoffId(String);

impl HandoffId {
    /// Creates a mark from the kernel's random numbers.
    ///
    /// # Errors
    /// If getrandom(2) fails; not seen on any machine that has booted.
    pub fn random() -> std::io::Result<Self> {
        let mut bytes = [0; 16];
        // getrandom(2) returns up to 256 bytes whole and uninterrupted.
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
        Ok(Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    /// Returns the mark that [`HandoffId::as_str`] gave.
    pub fn from_text(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// Returns the mark as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_request_has_the_same_mark() {
        let mark = |arguments: &[&str], variables: &[(&str, &str)]| {
            RequestMark::of(
                arguments.iter().map(|word| word.as_bytes()),
                variables.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())),
            )
        };
        let one = mark(&["sleep", "600"], &[("IMAGE", "alpine"), ("A", "b")]);
        assert_eq!(
            one,
            mark(
                &["sleep", "600"],
                &[("A", "b"), ("HOSTNAME", "0123456789ab"), ("IMAGE", "alpine")]
            )
        );
        let other_wait = [
            ("WAIT_SECONDS", "0"),
            ("WAITDAEMON_DRY_RUN", "true"),
            ("A", "b"),
            ("IMAGE", "alpine"),
        ];
        assert_eq!(one, mark(&["sleep", "600"], &other_wait));
        for (arguments, variables) in [
            (&["sleep", "60"][..], &[("IMAGE", "alpine"), ("A", "b")][..]),
            (&["sleep 600"], &[("IMAGE", "alpine"), ("A", "b")]),
            (&["sleep", "600"], &[("IMAGE", "alpine"), ("A", "c")]),
            (&["sleep", "600"], &[("IMAGE", "alpine")]),
            (&["sleep"], &[("600", ""), ("IMAGE", "alpine"), ("A", "b")]),
        ] {
            assert_ne!(one, mark(arguments, variables), "{arguments:?} {variables:?}");
        }
    }

    #[test]
    fn marks_differ_and_are_hexadecimal() {
        let (one, other) = (HandoffId::random().unwrap(), HandoffId::random().unwrap());
        assert_ne!(one, other);
        assert!(one.as_str().len() == 32 && one.as_str().bytes().all(|b| b.is_ascii_hexdigit()));
    }
}

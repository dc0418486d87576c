//! The rows of the fidelity table, for every engine.

use anyhow::{Context, Result};
use lab::system::System;
use serde_json::Value;

/// One setting: how an action gets it, and its outcome.
#[derive(Debug, Clone)]
pub struct Row {
    /// The setting's name in the engine's own terms.
    pub setting: &'static str,
    /// What is set.
    pub set: Set,
    /// The first and the last minor version of the Engine API, or of nerdctl 2, that has it.
    pub api: (u32, u32),
    /// The user container's image.
    pub image: &'static str,
    /// The action's image.
    pub own: &'static str,
    /// What the user container's own request would have instead, if that differs.
    pub stands_for: Option<Value>,
    /// The systems where the value is the engine's default or has no effect, so that nothing shows.
    pub without_effect: &'static [System],
    /// True if the row is about the network: its containers then use the engine's default network.
    /// All others use none, because making one is half of a container's cost.
    pub networked: bool,
    /// The required outcome.
    pub expect: Expect,
}

/// How an action gets the setting.
#[derive(Debug, Clone)]
pub enum Set {
    /// The value is merged into the body of the create request.
    Body(Value),
    /// The flags are given to nerdctl, and the arguments to the action.
    Flags(Vec<String>, Vec<String>),
}

/// The required outcome of a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// The user container is what the engine makes of the action's own request when it names IMAGE.
    Carried,
    /// As carried, except that these places differ, for this reason.
    Changed(&'static [&'static str], &'static str),
    /// The handoff fails before SUCCESS, with these words in its error, for this reason.
    Refused(&'static str, &'static str),
    /// The engine refuses the action itself, with these words: nothing is left for us to carry.
    EngineRefuses(&'static str, &'static str),
}

/// Makes the rows of a group.
pub type Rows = fn() -> Vec<Row>;

/// The rows of a group, by its name.
pub fn of_group(groups: &[(&str, Rows)], name: &str) -> Result<Vec<Row>> {
    let (_, rows) = groups.iter().find(|(group, _)| *group == name).context("no such group")?;
    Ok(rows())
}

impl Row {
    /// True if this minor version of the Engine API, or of nerdctl 2, has the setting.
    pub fn is_in(&self, api: u32) -> bool {
        (self.api.0..=self.api.1).contains(&api)
    }

    /// A row for a setting of the Engine API that is carried.
    pub fn body(setting: &'static str, set: Value) -> Self {
        Self::new(setting, Set::Body(set))
    }

    /// A row for a flag of nerdctl that is carried.
    pub fn flags(setting: &'static str, flags: &[&str]) -> Self {
        Self::new(
            setting,
            Set::Flags(flags.iter().map(|flag| (*flag).to_owned()).collect(), Vec::new()),
        )
    }

    fn new(setting: &'static str, set: Set) -> Self {
        Self {
            setting,
            set,
            api: (0, u32::MAX),
            image: "probe:1",
            own: "waitdaemon:dev",
            stands_for: None,
            without_effect: &[],
            networked: false,
            expect: Expect::Carried,
        }
    }

    /// Restricts the row to this minor version of the Engine API and later.
    pub fn since(mut self, minor: u32) -> Self {
        self.api.0 = minor;
        self
    }

    /// Restricts the row to this minor version of the Engine API and earlier.
    pub fn until(mut self, minor: u32) -> Self {
        self.api.1 = minor;
        self
    }

    /// Sets the user image.
    pub fn image(mut self, image: &'static str) -> Self {
        self.image = image;
        self
    }

    /// Sets the action's image.
    pub fn own(mut self, own: &'static str) -> Self {
        self.own = own;
        self
    }

    /// Expects the same result as if this had been set.
    pub fn stands_for(mut self, set: Value) -> Self {
        self.stands_for = Some(set);
        self
    }

    /// Expects no visible effect.
    pub fn without_effect(self) -> Self {
        self.without_effect_on(&System::ALL)
    }

    /// Expects no visible effect on these systems.
    pub fn without_effect_on(mut self, systems: &'static [System]) -> Self {
        self.without_effect = systems;
        self
    }

    /// Marks the row as being about the network.
    pub fn networked(mut self) -> Self {
        self.networked = true;
        self
    }

    /// Sets the arguments; for nerdctl, those that are not flags.
    pub fn arguments(mut self, words: &[&str]) -> Self {
        if let Set::Flags(_, arguments) = &mut self.set {
            *arguments = words.iter().map(|word| (*word).to_owned()).collect();
        }
        self
    }

    /// Expects intended differences at these places.
    pub fn changed(mut self, at: &'static [&'static str], why: &'static str) -> Self {
        self.expect = Expect::Changed(at, why);
        self
    }

    /// Expects a refusal before SUCCESS.
    pub fn refused(mut self, words: &'static str, why: &'static str) -> Self {
        self.expect = Expect::Refused(words, why);
        self
    }

    /// Expects the engine to refuse the action itself.
    pub fn engine_refuses(mut self, words: &'static str, why: &'static str) -> Self {
        self.expect = Expect::EngineRefuses(words, why);
        self
    }
}

/// The outcome of a row on a real engine.
#[derive(Debug)]
pub enum Became {
    /// The engine did not accept or start the action; its message.
    EngineRefused(String),
    /// The handoff failed; its log.
    Refused(String),
    /// The user container runs; the places where it differs from what was expected.
    Copied(Vec<super::compare::Difference>),
}

impl Row {
    /// Says what is wrong; `None` if the outcome is the required one.
    pub fn wrong(&self, became: &Became) -> Option<String> {
        let said = |text: &str| text.chars().take(1500).collect::<String>();
        match (&self.expect, became) {
            (Expect::Carried, Became::Copied(found)) if found.is_empty() => None,
            (Expect::Changed(at, _), Became::Copied(found)) => {
                let unexpected =
                    found.iter().find(|one| !at.iter().any(|place| one.at.starts_with(place)));
                let missing =
                    at.iter().find(|place| !found.iter().any(|one| one.at.starts_with(*place)));
                unexpected.map(|one| format!("lost or changed: {one}")).or_else(|| {
                    missing
                        .map(|place| format!("{place} is as expected, so the row's reason is void"))
                })
            }
            (Expect::Carried, Became::Copied(found)) => Some(
                found
                    .iter()
                    .map(|one| format!("lost or changed: {one}"))
                    .collect::<Vec<_>>()
                    .join("\n    "),
            ),
            (Expect::Refused(words, _), Became::Refused(text)) if text.contains(words) => None,
            (Expect::EngineRefuses(words, _), Became::EngineRefused(text))
                if text.contains(words) =>
            {
                None
            }
            (_, Became::EngineRefused(text)) => {
                Some(format!("the engine refused the action: {}", said(text)))
            }
            (_, Became::Refused(text)) => Some(format!("the handoff failed: {}", said(text))),
            (_, Became::Copied(_)) => {
                Some("it was carried, though the row says that it is refused".into())
            }
        }
    }
}

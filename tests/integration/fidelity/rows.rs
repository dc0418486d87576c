//! What a row of the fidelity table is, on every engine.

use serde_json::Value;

/// One setting: how an action gets it, and what becomes of it.
#[derive(Debug, Clone)]
pub struct Row {
    /// The setting's name in the engine's own terms.
    pub setting: &'static str,
    /// What is set.
    pub set: Set,
    /// The first and the last minor version of the Engine API that has it.
    pub api: (u32, u32),
    /// The user container's image.
    pub image: &'static str,
    /// The action's image.
    pub own: &'static str,
    /// What the user container's own request would have in its place, where that is not the same.
    pub stands_for: Option<Value>,
    /// The value is the engine's default here, or one that it does nothing with: nothing shows.
    pub without_effect: bool,
    /// It is about the network: its containers are on the engine's default one, the others on none, for making one
    /// is half of a container's cost.
    pub networked: bool,
    /// What must become of it.
    pub expect: Expect,
}

/// How an action gets the setting.
#[derive(Debug, Clone)]
pub enum Set {
    /// This is merged into the body of the create request.
    Body(Value),
    /// These flags are given to nerdctl, and these arguments to the action.
    Flags(Vec<String>, Vec<String>),
}

/// What must become of a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// The user container is what the engine makes of the action's own request when it names IMAGE.
    Carried,
    /// As carried, but these places differ, for this reason.
    Changed(&'static [&'static str], &'static str),
    /// The handoff fails before SUCCESS, with these words in its error, for this reason.
    Refused(&'static str, &'static str),
    /// The engine refuses the action itself, with these words: nothing is left for us to carry.
    EngineRefuses(&'static str, &'static str),
}

/// Makes the rows of a group.
pub type Rows = fn() -> Vec<Row>;

impl Row {
    /// True where this minor version of the Engine API has the setting.
    pub fn is_in(&self, api: u32) -> bool {
        (self.api.0..=self.api.1).contains(&api)
    }

    /// A setting of the Engine API that is carried.
    pub fn body(setting: &'static str, set: Value) -> Self {
        Self::new(setting, Set::Body(set))
    }

    /// A flag of nerdctl that is carried.
    pub fn flags(setting: &'static str, flags: &[&str]) -> Self {
        Self::new(setting, Set::Flags(flags.iter().map(|flag| (*flag).to_owned()).collect(), Vec::new()))
    }

    fn new(setting: &'static str, set: Set) -> Self {
        Self {
            setting,
            set,
            api: (0, u32::MAX),
            image: "probe:1",
            own: "waitdaemon:dev",
            stands_for: None,
            without_effect: false,
            networked: false,
            expect: Expect::Carried,
        }
    }

    /// From this minor version of the Engine API on.
    pub fn since(mut self, minor: u32) -> Self {
        self.api.0 = minor;
        self
    }

    /// Up to this minor version of the Engine API.
    pub fn until(mut self, minor: u32) -> Self {
        self.api.1 = minor;
        self
    }

    /// With this user image.
    pub fn image(mut self, image: &'static str) -> Self {
        self.image = image;
        self
    }

    /// With this image for the action.
    pub fn own(mut self, own: &'static str) -> Self {
        self.own = own;
        self
    }

    /// Arrives as if this had been set.
    pub fn stands_for(mut self, set: Value) -> Self {
        self.stands_for = Some(set);
        self
    }

    /// Has no effect that shows.
    pub fn without_effect(mut self) -> Self {
        self.without_effect = true;
        self
    }

    /// Is about the network.
    pub fn networked(mut self) -> Self {
        self.networked = true;
        self
    }

    /// With these arguments; for nerdctl, where they are no flags.
    pub fn arguments(mut self, words: &[&str]) -> Self {
        if let Set::Flags(_, arguments) = &mut self.set {
            *arguments = words.iter().map(|word| (*word).to_owned()).collect();
        }
        self
    }

    /// Differs at these places, on purpose.
    pub fn changed(mut self, at: &'static [&'static str], why: &'static str) -> Self {
        self.expect = Expect::Changed(at, why);
        self
    }

    /// Is refused before SUCCESS.
    pub fn refused(mut self, words: &'static str, why: &'static str) -> Self {
        self.expect = Expect::Refused(words, why);
        self
    }

    /// Is refused by the engine for the action itself.
    pub fn engine_refuses(mut self, words: &'static str, why: &'static str) -> Self {
        self.expect = Expect::EngineRefuses(words, why);
        self
    }
}

/// What became of a row on a real engine.
#[derive(Debug)]
pub enum Became {
    /// The engine did not take or start the action; its word.
    EngineRefused(String),
    /// The handoff failed; what it logged.
    Refused(String),
    /// The user container runs, and differs from what was expected at these places.
    Copied(Vec<super::compare::Difference>),
}

impl Row {
    /// `None` where it became what was expected; else what is wrong.
    pub fn wrong(&self, became: &Became) -> Option<String> {
        let said = |text: &str| text.chars().take(1500).collect::<String>();
        match (&self.expect, became) {
            (Expect::Carried, Became::Copied(found)) if found.is_empty() => None,
            (Expect::Changed(at, _), Became::Copied(found)) => {
                let unexpected = found.iter().find(|one| !at.iter().any(|place| one.at.starts_with(place)));
                let missing = at.iter().find(|place| !found.iter().any(|one| one.at.starts_with(*place)));
                unexpected
                    .map(|one| format!("lost or changed: {one}"))
                    .or_else(|| missing.map(|place| format!("{place} is as expected, so the row's reason is void")))
            }
            (Expect::Carried, Became::Copied(found)) => {
                Some(found.iter().map(|one| format!("lost or changed: {one}")).collect::<Vec<_>>().join("\n    "))
            }
            (Expect::Refused(words, _), Became::Refused(text)) if text.contains(words) => None,
            (Expect::EngineRefuses(words, _), Became::EngineRefused(text)) if text.contains(words) => None,
            (_, Became::EngineRefused(text)) => Some(format!("the engine refused the action: {}", said(text))),
            (_, Became::Refused(text)) => Some(format!("the handoff failed: {}", said(text))),
            (_, Became::Copied(_)) => Some("it was carried, though the row says that it is refused".into()),
        }
    }
}

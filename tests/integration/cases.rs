//! How to write a case: `case!` registers it at once, with the systems on which it runs.
//!
//! A case's name is `<system>::<module>::<name>`: the file is the promise that the case checks.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use anyhow::Result;
use lab::suite;
use lab::system::System;

use System::{CaptainNext, CaptainOS, CaptainV1, DockerNew, DockerOld, HookOS};

/// How many other cases begin between two long ones.
const BETWEEN_LONG_CASES: usize = 12;

/// The systems on which a case runs.
#[derive(Clone, Copy)]
pub struct Systems {
    on: &'static [System],
    /// True for a long case, which only `make soak` runs.
    soak: bool,
}

impl Systems {
    /// A case that runs on these systems.
    pub const fn on(on: &'static [System]) -> Self {
        Self { on, soak: false }
    }

    /// Restricts the case to `make soak`.
    pub const fn soak(mut self) -> Self {
        self.soak = true;
        self
    }
}

/// Every version of either engine, each with its usual cgroups.
pub const ON_VERSIONS: Systems =
    Systems::on(&[HookOS, DockerOld, DockerNew, CaptainOS, CaptainNext]);
/// Every system: for what can differ on any of them.
pub const ON_ALL: Systems = Systems::on(&System::ALL);
/// The systems that ship, and the newest Docker Engine.
pub const ON_MAIN: Systems = Systems::on(&[HookOS, DockerNew, CaptainOS]);
/// For what only Docker has and can differ on the old one.
pub const ON_DOCKER: Systems = Systems::on(&System::DOCKER);
/// For what only Docker has.
pub const ON_DOCKER_MAIN: Systems = Systems::on(&[HookOS, DockerNew]);
/// For what only the newest Docker can show.
pub const ON_DOCKER_NEW: Systems = Systems::on(&[DockerNew]);
/// For what only Docker 20.10 can show.
pub const ON_DOCKER_OLD: Systems = Systems::on(&[DockerOld]);
/// For what only containerd has and can differ on each system with it.
pub const ON_CONTAINERD: Systems = Systems::on(&System::CONTAINERD);
/// For what only containerd has under systemd and can differ with nerdctl's version.
pub const ON_CAPTAINS: Systems = Systems::on(&[CaptainOS, CaptainNext]);
/// For what only containerd has.
pub const ON_CAPTAIN: Systems = Systems::on(&[CaptainOS]);
/// For what needs the controllers of cgroup v1.
pub const ON_CAPTAIN_V1: Systems = Systems::on(&[CaptainV1]);

/// A case.
pub struct Case {
    module: &'static str,
    name: &'static str,
    systems: Option<Systems>,
    run: fn(System) -> Result<()>,
}

inventory::collect!(Case);

impl Case {
    /// A case of a module, as `module_path!()` names it; a case without systems runs outside of
    /// any.
    pub const fn new(
        module: &'static str,
        name: &'static str,
        systems: Option<Systems>,
        run: fn(System) -> Result<()>,
    ) -> Self {
        Self { module, name, systems, run }
    }

    /// The case's name without the system.
    fn name(&self) -> String {
        let module = self.module.split_once("::").map_or("", |(_, module)| module);
        format!("{module}::{}", self.name)
    }
}

/// Every case on each of its systems. Long cases are included only if `SOAK` is set; if it is
/// `alone`, all others are left out.
///
/// The cases are mixed: some keep the processors busy, others mostly wait, and beside each other
/// they take less time. The table of settings has the longest and busiest, so these begin early and
/// not all at once.
pub fn all() -> Vec<suite::Case> {
    let soak = std::env::var_os("SOAK");
    let (soak, alone) = (soak.is_some(), soak.is_some_and(|value| value == "alone"));
    let mut cases: Vec<_> = inventory::iter::<Case>.into_iter().collect();
    cases.sort_by_key(|case| mixed(&case.name()));
    let (mut long, mut all) = (Vec::new(), Vec::new());
    for case in cases {
        let run = case.run;
        let Some(systems) = case.systems else {
            // Such a case ignores the system.
            if !alone {
                all.push(suite::Case { name: case.name(), run: Arc::new(move || run(HookOS)) });
            }
            continue;
        };
        let is_meant = if alone { systems.soak } else { soak || !systems.soak };
        let group = if case.module.contains("fidelity") { &mut long } else { &mut all };
        for &system in systems.on.iter().filter(|_| is_meant) {
            let name = format!("{}::{}", system.name(), case.name());
            group.push(suite::Case { name, run: Arc::new(move || run(system)) });
        }
    }
    // nerdctl's take longest.
    long.sort_by_key(|case: &suite::Case| !case.name.starts_with("captain"));
    for (number, case) in long.into_iter().enumerate() {
        all.insert((number * BETWEEN_LONG_CASES).min(all.len()), case);
    }
    all
}

/// A number by which names are in no order that means anything, and always in the same one.
fn mixed(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

/// Writes and registers a case:
///
/// - `case!(name, ON_ALL, |machine| { ... });` on a booted machine that has waitdaemon's image and
///   `alpine`
/// - `case!(name, ON_ALL, |machine: Shared| { ... });` the same, for a case that leaves the machine
///   itself as it was: no changed files, programs, mounts or rules; its containers are removed, and
///   the next case gets the machine
/// - `case!(name, ON_ALL, |system: System| { ... });` boots the machine itself
/// - `case!(name, || { ... });` needs no system
#[macro_export]
macro_rules! case {
    ($name:ident, || $body:expr) => {
        fn $name(_: lab::system::System) -> anyhow::Result<()> {
            $body
        }
        inventory::submit! { $crate::cases::Case::new(module_path!(), stringify!($name), None, $name) }
    };
    ($name:ident, $systems:expr, |$system:ident: System| $body:expr) => {
        fn $name($system: lab::system::System) -> anyhow::Result<()> {
            $body
        }
        inventory::submit! { $crate::cases::Case::new(module_path!(), stringify!($name), Some($systems), $name) }
    };
    ($name:ident, $systems:expr, |$machine:ident: Shared| $body:expr) => {
        fn $name(system: lab::system::System) -> anyhow::Result<()> {
            fn on($machine: $crate::world::Shared) -> anyhow::Result<()> {
                $body
            }
            $crate::world::shared(system, on)
        }
        inventory::submit! { $crate::cases::Case::new(module_path!(), stringify!($name), Some($systems), $name) }
    };
    ($name:ident, $systems:expr, |$machine:pat_param| $body:expr) => {
        fn $name(system: lab::system::System) -> anyhow::Result<()> {
            let $machine = $crate::world::machine(system)?;
            $body
        }
        inventory::submit! { $crate::cases::Case::new(module_path!(), stringify!($name), Some($systems), $name) }
    };
}

//! What a seed decides.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::engine::fake::{Fate, Fault, Ways};
use crate::retry::chance;

/// Which process is killed or told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The newest action container.
    Action,
    /// The newest waiter.
    Waiter,
    /// The agent: without it, nothing reports and nothing removes the action container.
    Agent,
}

/// An event that happens at its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// SIGKILL.
    Kill(Target),
    /// SIGTERM.
    Stop(Target),
    /// The engine goes away for this long.
    Engine {
        /// Until it is back.
        away: Duration,
        /// What happens to its containers.
        containers: Fate,
        /// True if it does not remember how containers ended: it lost its events, or looks for them
        /// by a clock that was set back.
        forgets: bool,
    },
    /// The server serves the same action again.
    Again,
}

/// What an agent on containerd does with its container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Agent {
    /// Deletes it if the action succeeded (v0.24 and later).
    Usual,
    /// Cannot delete it, but reports SUCCESS all the same.
    CannotDelete,
    /// Always deletes it (v0.23).
    DeletesAll,
}

/// One run.
#[derive(Debug, Clone)]
pub struct Scenario {
    pub ways: Ways,
    pub wait_seconds: u64,
    pub watch_seconds: u64,
    /// How long the user container runs, and its exit code.
    pub user: (Duration, i64),
    pub image_present: bool,
    /// True if there is no user container: the waiter is to end the machine.
    pub own_end: bool,
    /// True if the machine is to be ended a minute after the user container failed to end it.
    pub fallback: bool,
    /// True if PID 1 does what it is asked to do.
    pub init_obeys: bool,
    /// The action's timeout.
    pub timeout: Duration,
    /// How long the agent takes to delete a container and to report.
    pub agent_takes: Duration,
    /// How the agent on containerd behaves.
    pub agent: Agent,
    /// True if the kernel tells how a process ended.
    pub kernel_tells: bool,
    /// The journal line at which the waiter gets SIGKILL, and whether after it is kept.
    pub journal_death: Option<(usize, bool)>,
    pub faults: BTreeMap<usize, Fault>,
    pub events: Vec<(Duration, Event)>,
}

fn one_in(chances: u64) -> bool {
    chance::number().is_multiple_of(chances)
}

fn milliseconds(most: u64) -> Duration {
    Duration::from_millis(chance::number() % most)
}

impl Scenario {
    /// Returns the run of this seed, with which the thread's random sequence begins.
    pub fn of(seed: u64) -> Self {
        chance::seed(seed + 1);
        let ways = if one_in(2) { Ways::Docker } else { Ways::Containerd };
        let wait_seconds = [0, 1, 3, 10][usize::try_from(chance::number() % 4).unwrap()];
        if one_in(400) {
            return Self::day(ways);
        }
        let watch_seconds = if one_in(6) { 0 } else { 60 };
        let lasts = [Duration::ZERO, Duration::from_secs(5), Duration::from_secs(500)];
        let user =
            (lasts[usize::try_from(chance::number() % 3).unwrap()], if one_in(4) { 7 } else { 0 });
        let image_present = !one_in(5);
        let timeout = if one_in(6) { milliseconds(3000) } else { Duration::from_secs(600) };
        let agent_takes = if one_in(4) { milliseconds(8000) } else { milliseconds(100) };
        let mut scenario = Self {
            ways,
            wait_seconds,
            watch_seconds,
            user,
            image_present,
            own_end: false,
            fallback: false,
            init_obeys: true,
            timeout,
            agent_takes,
            agent: if one_in(5) {
                Agent::CannotDelete
            } else if one_in(5) {
                Agent::DeletesAll
            } else {
                Agent::Usual
            },
            kernel_tells: !one_in(3),
            journal_death: one_in(5)
                .then(|| (usize::try_from(chance::number() % 6).unwrap(), one_in(2))),
            faults: BTreeMap::new(),
            events: Vec::new(),
        };
        for _ in 0..chance::number() % 3 {
            let number = usize::try_from(chance::number() % 40).unwrap();
            scenario.faults.insert(number, Self::fault(ways));
        }
        for _ in 0..chance::number() % 3 {
            let event = scenario.event();
            // Sometimes, two attempts run at once.
            let most = if one_in(4) { 400 } else { 1500 + 2 * 1000 * (wait_seconds + 1) };
            scenario.events.push((milliseconds(most), event));
        }
        scenario.events.sort_by_key(|(at, _)| *at);
        match chance::number() % 6 {
            0 => scenario.own_end = true,
            1 => scenario.fallback = true,
            _ => {}
        }
        scenario.init_obeys = !one_in(3);
        scenario
    }

    /// Returns a wait of a day; in each hour the waiter is killed or the engine restarts.
    fn day(ways: Ways) -> Self {
        const HOUR: Duration = Duration::from_secs(3600);
        let mut scenario = Self {
            ways,
            wait_seconds: 24 * 3600,
            watch_seconds: 60,
            user: (Duration::ZERO, 0),
            image_present: true,
            own_end: false,
            fallback: false,
            init_obeys: true,
            timeout: Duration::from_secs(600),
            agent_takes: milliseconds(100),
            agent: Agent::Usual,
            kernel_tells: true,
            journal_death: None,
            faults: BTreeMap::new(),
            events: Vec::new(),
        };
        for hour in 0..24 {
            let at = HOUR * hour + HOUR / 60 + milliseconds(3_400_000);
            let event = if one_in(2) { Event::Kill(Target::Waiter) } else { scenario.restart() };
            scenario.events.push((at, event));
        }
        scenario
    }

    fn fault(ways: Ways) -> Fault {
        loop {
            return match chance::number() % 9 {
                0 => Fault::Refused,
                1 => Fault::AnswerLost,
                2 => Fault::Unknown,
                3 => Fault::Delay,
                4 => Fault::Hang,
                5 => Fault::HangAfter,
                6 => Fault::KilledBefore,
                7 => Fault::KilledAfter,
                _ if ways == Ways::Containerd => Fault::Lie,
                _ => continue,
            };
        }
    }

    fn event(&self) -> Event {
        match chance::number() % 8 {
            0 => Event::Kill(Target::Action),
            1 | 2 => Event::Kill(Target::Waiter),
            3 => Event::Kill(Target::Agent),
            4 => Event::Stop(if one_in(2) { Target::Action } else { Target::Waiter }),
            5 => self.restart(),
            _ => Event::Again,
        }
    }

    fn restart(&self) -> Event {
        Event::Engine {
            away: milliseconds(20_000),
            containers: match chance::number() % 4 {
                0 if self.ways == Ways::Docker => Fate::Told,
                1 if self.ways == Ways::Docker => Fate::EndedLater,
                _ => Fate::Live,
            },
            forgets: one_in(3),
        }
    }

    /// True if an event of this kind happens.
    pub fn has(&self, is_meant: impl Fn(&Event) -> bool) -> bool {
        self.events.iter().any(|(_, event)| is_meant(event))
    }

    /// True if nothing goes wrong apart from its events.
    pub fn is_calm(&self) -> bool {
        self.faults.is_empty()
            && self.journal_death.is_none()
            && self.timeout > Duration::from_secs(60)
    }

    /// Returns the number of faults of this kind.
    pub fn faults(&self, is_meant: impl Fn(&Fault) -> bool) -> usize {
        self.faults.values().filter(|fault| is_meant(fault)).count()
    }
}

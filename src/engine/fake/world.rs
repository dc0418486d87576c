//! The simulated engine's containers, and what happens to them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

use crate::engine::Life;
use crate::error::Failure;
use crate::names::{HandoffId, Role};
use crate::signals::Signal;
use crate::ticket::Duty;

/// Whose ways an engine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ways {
    /// The daemon goes on with a request whose client is gone; the agent removes its container whatever became of it;
    /// a container that is gone is remembered by an event.
    Docker,
    /// nerdctl dies with its client, half-way if it comes so; a process is created, then started; the agent keeps the
    /// container of an action that failed; `rm --force` says yes whatever happened.
    Containerd,
}

/// What becomes of containers if their engine restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// They outlive it (containerd; Docker with live-restore).
    Live,
    /// They get SIGTERM as it goes, and those that go on end when it is back (Docker that got SIGTERM).
    Told,
    /// They go on, and end when it is back (Docker that got SIGKILL).
    EndedLater,
}

/// What goes wrong at one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is not done: no connection.
    Refused,
    /// It is done, and the answer is lost.
    AnswerLost,
    /// It is not done, for a reason that nobody knows (HTTP 500).
    Unknown,
    /// It takes 2 to 20 s.
    Delay,
    /// It is not done, and no answer comes for 15 or 30 s.
    Hang,
    /// It is done, and no answer comes for 15 or 30 s.
    HangAfter,
    /// The client gets SIGKILL before it is done.
    KilledBefore,
    /// The client gets SIGKILL just after it was done.
    KilledAfter,
    /// A forced removal is not done, and the engine says that it was (nerdctl).
    Lie,
}

/// A container of the simulated engine.
#[derive(Debug)]
pub struct Container {
    pub id: String,
    pub name: String,
    pub role: Option<Role>,
    pub action: String,
    pub handoff: String,
    pub command: Vec<String>,
    pub life: Life,
    pub duty: Option<Box<Duty>>,
    pub(super) output: Vec<u8>,
    /// What its process keeps beyond its end.
    pub journal: Vec<String>,
    /// Whoever ran it removed its log.
    pub log_removed: bool,
    /// How often its command began to run, and when it did last.
    pub starts: u32,
    pub started_at: Option<Instant>,
    /// The engine starts it again if it fails.
    pub(super) restarts: bool,
    /// It was ended by a request, so it is not started again.
    stopped: bool,
    /// Its process said at ERROR that something failed.
    pub said: bool,
    /// A later attempt of the same action removed it.
    pub superseded: bool,
    process: Option<AbortHandle>,
    signals: Option<mpsc::UnboundedSender<Signal>>,
}

/// How a process is run: the simulation gives the engine this for waiters and user containers.
pub type Spawn = Rc<dyn Fn(&Rc<RefCell<World>>, &str)>;

/// The engine, its containers, and what happens to it.
pub struct World {
    pub ways: Ways,
    pub containers: BTreeMap<String, Container>,
    /// Containers that were removed, in their last state.
    pub removed: Vec<Container>,
    pub image_present: bool,
    pub up: bool,
    /// Counts the engine's lives: what was open breaks when it changes.
    pub(super) epoch: u32,
    /// Exit codes of containers that are gone.
    pub(super) events: BTreeMap<String, i64>,
    /// All exit codes, as the kernel knows them.
    pub(super) codes: BTreeMap<String, i64>,
    /// What goes wrong at which request, counted from 0.
    pub faults: BTreeMap<usize, Fault>,
    /// At which line of its journal a waiter gets SIGKILL, once: before it is kept, or after.
    pub journal_death: Option<(usize, bool)>,
    /// The kernel tells how a process ended (Linux 6.15).
    pub kernel_tells: bool,
    pub requests: usize,
    /// What happens is noted.
    pub traced: bool,
    pub trace: Vec<String>,
    pub violations: Vec<String>,
    pub(super) changes: watch::Sender<u64>,
    next: u64,
    spawn: Option<Spawn>,
    pub begin: Instant,
}

impl World {
    pub fn new(ways: Ways) -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self {
            ways,
            containers: BTreeMap::new(),
            removed: Vec::new(),
            image_present: true,
            up: true,
            epoch: 0,
            events: BTreeMap::new(),
            codes: BTreeMap::new(),
            faults: BTreeMap::new(),
            journal_death: None,
            kernel_tells: true,
            requests: 0,
            traced: false,
            trace: Vec::new(),
            violations: Vec::new(),
            changes: watch::channel(0).0,
            next: 1,
            spawn: None,
            begin: Instant::now(),
        }))
    }

    /// Says how processes are run.
    pub fn set_spawn(&mut self, spawn: Spawn) {
        self.spawn = Some(spawn);
    }

    /// Notes what happens, if somebody is going to read it.
    pub fn note(&mut self, text: impl FnOnce() -> String) {
        if self.traced {
            let at = self.begin.elapsed().as_secs_f64();
            self.trace.push(format!("{at:10.3}  {}", text()));
        }
    }

    pub fn violate(&mut self, text: String) {
        self.note(|| format!("VIOLATION: {text}"));
        self.violations.push(text);
    }

    /// Wakes up whenever something changes.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(super) fn changed(&mut self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// Makes a container. IDs have 64 hexadecimal digits, as real ones.
    pub fn add(&mut self, name: &str, role: Option<Role>, handoff: Option<&HandoffId>, command: &[String]) -> String {
        let id = format!("{:064x}", self.next);
        self.next += 1;
        let action = role.map_or("", |role| name.strip_suffix(&format!("-{}", role.as_str())).unwrap_or(name));
        let container = Container {
            id: id.clone(),
            name: name.to_owned(),
            role,
            action: action.to_owned(),
            handoff: handoff.map(|handoff| handoff.as_str().to_owned()).unwrap_or_default(),
            command: command.to_vec(),
            life: Life::Created,
            duty: None,
            output: Vec::new(),
            journal: Vec::new(),
            log_removed: false,
            starts: 0,
            started_at: None,
            restarts: role == Some(Role::Waiter),
            stopped: false,
            said: false,
            superseded: false,
            process: None,
            signals: None,
        };
        self.containers.insert(id.clone(), container);
        self.changed();
        id
    }

    /// A container's process says something, if it lives.
    pub fn say(&mut self, id: &str, line: &str) {
        if let Some(container) = self.containers.get_mut(id).filter(|found| matches!(found.life, Life::Running { .. }))
        {
            container.output.extend_from_slice(line.as_bytes());
        }
        self.changed();
    }

    /// A container's process says at ERROR what failed.
    pub fn fail(&mut self, id: &str, failure: &Failure) {
        if let Some(container) = self.containers.get_mut(id) {
            container.said = true;
        }
        self.note(|| format!("ERROR {}: {failure}: {}", short(id), failure.causes()));
    }

    /// A container's process keeps a line beyond its end, if it lives; the journal's line that it dies at may be told.
    pub fn keep(world: &Rc<RefCell<Self>>, id: &str, line: &str) {
        let mut this = world.borrow_mut();
        let Some(found) = this.containers.get_mut(id).filter(|found| matches!(found.life, Life::Running { .. })) else {
            return;
        };
        let death = (found.journal.len(), this.journal_death);
        let dies = |kept: bool| death.1.is_some_and(|(line, after)| line == death.0 && after == kept);
        if !dies(false) {
            if let Some(found) = this.containers.get_mut(id) {
                found.journal.push(line.to_owned());
            }
            this.note(|| format!("journal of {}: {line}", short(id)));
        }
        let dies = dies(false) || dies(true);
        if dies {
            this.journal_death = None;
            drop(this);
            Self::kill(world, id);
        }
    }

    /// The handoff's word for a waiter, by a signal, or on containerd by a line in its journal; false if it cannot be given.
    pub fn word(&mut self, id: &str) -> bool {
        if self.ways == Ways::Containerd {
            self.note(|| format!("the word is written for {}", short(id)));
            return self.containers.get_mut(id).map(|found| found.journal.push("word\n".into())).is_some();
        }
        let signals = self.containers.get(id).and_then(|found| found.signals.as_ref());
        let given = signals.is_some_and(|signals| signals.send(Signal::Word).is_ok());
        self.note(|| format!("the word for {}: {given}", short(id)));
        given
    }

    /// Lets a container's process be known, which begins now.
    pub fn begins(&mut self, id: &str, process: AbortHandle, signals: Option<mpsc::UnboundedSender<Signal>>) {
        let pid = u32::try_from(self.next).unwrap_or(1);
        self.next += 1;
        if let Some(container) = self.containers.get_mut(id) {
            (container.process, container.signals) = (Some(process), signals);
            container.life = Life::Running { pid: Some(pid) };
            container.starts += 1;
            container.started_at = Some(Instant::now());
            let (name, starts) = (container.name.clone(), container.starts);
            self.note(|| format!("{name} runs ({starts})"));
        }
        self.changed();
    }

    /// A container's process ended with this code.
    pub fn ended(world: &Rc<RefCell<Self>>, id: &str, code: i64) {
        let mut this = world.borrow_mut();
        let Some(container) = this.containers.get_mut(id) else { return };
        if !matches!(container.life, Life::Running { .. } | Life::Starting { .. }) {
            return;
        }
        container.life = Life::Ended { code, note: String::new() };
        (container.process, container.signals) = (None, None);
        let name = container.name.clone();
        let again = code != 0 && !container.stopped && container.restarts;
        this.events.insert(id.to_owned(), code);
        this.codes.insert(id.to_owned(), code);
        this.note(|| format!("{name} ended with {code}"));
        this.changed();
        // Docker starts it again at once, containerd's monitor looks every 10 s.
        let pause = if this.ways == Ways::Docker { Duration::from_millis(100) } else { Duration::from_secs(10) };
        drop(this);
        if again {
            let (world, id) = (Rc::clone(world), id.to_owned());
            tokio::task::spawn_local(async move {
                sleep(pause).await;
                Self::start_again(&world, &id);
            });
        }
    }

    /// The engine's own start of a container that failed.
    fn start_again(world: &Rc<RefCell<Self>>, id: &str) {
        let mut this = world.borrow_mut();
        if !this.up {
            return;
        }
        let Some(container) = this.containers.get_mut(id) else { return };
        if !matches!(container.life, Life::Ended { code, .. } if code != 0) || !container.restarts {
            return;
        }
        drop(this);
        Self::run(world, id);
    }

    pub(super) fn run(world: &Rc<RefCell<Self>>, id: &str) {
        let spawn = world.borrow().spawn.clone();
        if let Some(spawn) = spawn {
            spawn(world, id);
        }
    }

    /// SIGKILL to a container's process.
    pub fn kill(world: &Rc<RefCell<Self>>, id: &str) {
        let process = world.borrow_mut().containers.get_mut(id).and_then(|container| container.process.take());
        if let Some(process) = process {
            world.borrow_mut().note(|| format!("SIGKILL to {}", short(id)));
            process.abort();
            Self::ended(world, id, 137);
        }
    }

    /// SIGTERM to a container's process.
    pub fn terminate(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let name = container.name.clone();
        if let Some(signals) = &container.signals {
            let _ = signals.send(Signal::Stop("SIGTERM"));
            self.note(|| format!("SIGTERM to {name}"));
        }
    }

    /// The engine goes away. If its containers end with it, it may tell them so first; its API is closed by then.
    pub fn engine_down(world: &Rc<RefCell<Self>>, containers: Fate, forgets: bool) {
        let mut this = world.borrow_mut();
        this.note(|| format!("the engine goes down; containers: {containers:?}; forgets: {forgets}"));
        this.up = false;
        this.epoch += 1;
        if forgets {
            this.events.clear();
        }
        this.changed();
        if containers == Fate::Told {
            this.running().iter().for_each(|id| this.terminate(id));
        }
    }

    /// The engine is back. It ends what should have ended with it, and starts what failed meanwhile.
    pub fn engine_up(world: &Rc<RefCell<Self>>, containers: Fate) {
        let running = world.borrow().running();
        if containers != Fate::Live {
            running.iter().for_each(|id| Self::kill(world, id));
        }
        let mut this = world.borrow_mut();
        this.note(|| "the engine is back".into());
        this.up = true;
        this.changed();
        let failed = |container: &&Container| {
            container.restarts && matches!(container.life, Life::Ended { code, .. } if code != 0)
        };
        let ids: Vec<String> = this.containers.values().filter(failed).map(|found| found.id.clone()).collect();
        drop(this);
        ids.iter().for_each(|id| Self::start_again(world, id));
    }

    fn running(&self) -> Vec<String> {
        let runs = |found: &&Container| matches!(found.life, Life::Running { .. });
        self.containers.values().filter(runs).map(|found| found.id.clone()).collect()
    }

    /// Removes a container for good; its process ends.
    pub fn erase(world: &Rc<RefCell<Self>>, id: &str) {
        if let Some(container) = world.borrow_mut().containers.get_mut(id) {
            container.stopped = true;
        }
        Self::kill(world, id);
        let mut this = world.borrow_mut();
        if let Some(container) = this.containers.remove(id) {
            this.note(|| format!("{} is removed", container.name));
            this.removed.push(container);
        }
        this.changed();
    }

    pub(super) fn find(&self, container: &str) -> Option<&Container> {
        self.containers.get(container).or_else(|| self.containers.values().find(|found| found.name == container))
    }

    /// All containers that ever were.
    pub fn all(&self) -> impl Iterator<Item = &Container> {
        self.containers.values().chain(&self.removed)
    }
}

/// An ID as the trace shows it.
pub fn short(id: &str) -> &str {
    id.trim_start_matches('0')
}

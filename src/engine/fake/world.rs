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

/// Which real engine the simulated engine behaves like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ways {
    /// The daemon carries on with a request whose client is gone. The agent removes its container
    /// whatever the outcome. An event remembers a container that is gone.
    Docker,
    /// nerdctl dies with its client, perhaps halfway. A process is created, then started. The agent
    /// keeps the container of an action that failed. `rm --force` reports success whatever
    /// happened.
    Containerd,
}

/// What happens to containers if their engine restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// They outlive it (containerd; Docker with live-restore).
    Live,
    /// They get SIGTERM as it goes down, and those that carry on end when it is back (Docker that
    /// got SIGTERM).
    Told,
    /// They carry on, and end when it is back (Docker that got SIGKILL).
    EndedLater,
}

/// A fault at one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// There is no connection, and the request is not carried out.
    Refused,
    /// The request is carried out, and the answer is lost.
    AnswerLost,
    /// The request is not carried out, for an unknown reason (HTTP 500).
    Unknown,
    /// The request takes 2 to 20 s.
    Delay,
    /// The request is not carried out, and no answer comes for 15 or 30 s.
    Hang,
    /// The request is carried out, and no answer comes for 15 or 30 s.
    HangAfter,
    /// The client gets SIGKILL before the request is carried out.
    KilledBefore,
    /// The client gets SIGKILL just after the request is carried out.
    KilledAfter,
    /// A forced removal is not carried out, and the engine says that it was (nerdctl).
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
    /// The lines of its journal, which outlive its process.
    pub journal: Vec<String>,
    /// True if its log was removed by the agent.
    pub log_removed: bool,
    /// How often its command was started, and when it was last.
    pub starts: u32,
    pub started_at: Option<Instant>,
    /// True if the engine starts it again when it fails.
    pub(super) restarts: bool,
    /// True if a request ended it, so that it is not started again.
    stopped: bool,
    /// True if its process reported a failure at ERROR.
    pub said: bool,
    /// True if a later attempt of the same action removed it.
    pub superseded: bool,
    process: Option<AbortHandle>,
    signals: Option<mpsc::UnboundedSender<Signal>>,
}

/// Runs a process; the simulation gives the engine this for waiters and user containers.
pub type Spawn = Rc<dyn Fn(&Rc<RefCell<World>>, &str)>;

/// The engine, its containers, and what happens to it.
pub struct World {
    pub ways: Ways,
    pub containers: BTreeMap<String, Container>,
    /// Containers that were removed, in their last state.
    pub removed: Vec<Container>,
    pub image_present: bool,
    pub up: bool,
    /// Counts the engine's lives; what was open breaks when this changes.
    pub(super) epoch: u32,
    /// Exit codes of containers that are gone.
    pub(super) events: BTreeMap<String, i64>,
    /// All exit codes, as the kernel knows them.
    pub(super) codes: BTreeMap<String, i64>,
    /// Which fault happens at which request, counted from 0.
    pub faults: BTreeMap<usize, Fault>,
    /// The journal line at which a waiter gets SIGKILL, once, and whether after it is kept.
    pub journal_death: Option<(usize, bool)>,
    /// True if the kernel tells how a process ended (Linux 6.15).
    pub kernel_tells: bool,
    /// Who asked to take the machine down, and when.
    pub asked: Vec<(String, Instant)>,
    /// True if the machine is down: nothing happens any more.
    pub down: bool,
    pub requests: usize,
    /// True if what happens is traced.
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
            asked: Vec::new(),
            down: false,
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

    /// Sets how processes are run.
    pub fn set_spawn(&mut self, spawn: Spawn) {
        self.spawn = Some(spawn);
    }

    /// Adds to the trace, if there is one.
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

    /// Returns a receiver that wakes up whenever something changes.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(super) fn changed(&mut self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// Adds a container. IDs have 64 hexadecimal digits, like real ones.
    pub fn add(
        &mut self,
        name: &str,
        role: Option<Role>,
        handoff: Option<&HandoffId>,
        command: &[String],
    ) -> String {
        let id = format!("{:064x}", self.next);
        self.next += 1;
        let action = role
            .map_or("", |role| name.strip_suffix(&format!("-{}", role.as_str())).unwrap_or(name));
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

    /// Adds to the output of a container's process, if it is running.
    pub fn say(&mut self, id: &str, line: &str) {
        if let Some(container) =
            self.containers.get_mut(id).filter(|found| matches!(found.life, Life::Running { .. }))
        {
            container.output.extend_from_slice(line.as_bytes());
        }
        self.changed();
    }

    /// Notes that a container's process reported a failure at ERROR.
    pub fn fail(&mut self, id: &str, failure: &Failure) {
        if let Some(container) = self.containers.get_mut(id) {
            container.said = true;
        }
        self.note(|| format!("ERROR {}: {failure}: {}", short(id), failure.causes()));
    }

    /// Adds a line to a container's journal, if its process is running. The process may be told to
    /// die at this line.
    pub fn keep(world: &Rc<RefCell<Self>>, id: &str, line: &str) {
        let mut this = world.borrow_mut();
        let Some(found) =
            this.containers.get_mut(id).filter(|found| matches!(found.life, Life::Running { .. }))
        else {
            return;
        };
        let death = (found.journal.len(), this.journal_death);
        let dies =
            |kept: bool| death.1.is_some_and(|(line, after)| line == death.0 && after == kept);
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

    /// Gives a waiter the handoff's word: by a signal, or on containerd by a line in its journal.
    /// Returns false if the word cannot be given.
    pub fn word(&mut self, id: &str) -> bool {
        if self.ways == Ways::Containerd {
            self.note(|| format!("the word is written for {}", short(id)));
            return self
                .containers
                .get_mut(id)
                .map(|found| found.journal.push("word\n".into()))
                .is_some();
        }
        let signals = self.containers.get(id).and_then(|found| found.signals.as_ref());
        let given = signals.is_some_and(|signals| signals.send(Signal::Word).is_ok());
        self.note(|| format!("the word for {}: {given}", short(id)));
        given
    }

    /// Registers a container's process, which begins now.
    pub fn begins(
        &mut self,
        id: &str,
        process: AbortHandle,
        signals: Option<mpsc::UnboundedSender<Signal>>,
    ) {
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

    /// Notes that a container's process ended with this code.
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
        // Docker starts it again at once; containerd's monitor looks every 10 s.
        let pause = if this.ways == Ways::Docker {
            Duration::from_millis(100)
        } else {
            Duration::from_secs(10)
        };
        drop(this);
        if again {
            let (world, id) = (Rc::clone(world), id.to_owned());
            tokio::task::spawn_local(async move {
                sleep(pause).await;
                Self::start_again(&world, &id);
            });
        }
    }

    /// Starts a container that failed again, as the engine does.
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

    /// Sends SIGKILL to a container's process.
    pub fn kill(world: &Rc<RefCell<Self>>, id: &str) {
        let process = world
            .borrow_mut()
            .containers
            .get_mut(id)
            .and_then(|container| container.process.take());
        if let Some(process) = process {
            world.borrow_mut().note(|| format!("SIGKILL to {}", short(id)));
            process.abort();
            Self::ended(world, id, 137);
        }
    }

    /// Sends SIGTERM to a container's process.
    pub fn terminate(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let name = container.name.clone();
        if let Some(signals) = &container.signals {
            let _ = signals.send(Signal::Stop("SIGTERM"));
            self.note(|| format!("SIGTERM to {name}"));
        }
    }

    /// Takes the engine down. If its containers end with it, it may tell them first; its API is
    /// closed by then.
    pub fn engine_down(world: &Rc<RefCell<Self>>, containers: Fate, forgets: bool) {
        let mut this = world.borrow_mut();
        this.note(|| {
            format!("the engine goes down; containers: {containers:?}; forgets: {forgets}")
        });
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

    /// Brings the engine back. It ends the containers that should have ended with it, and starts
    /// those that failed meanwhile.
    pub fn engine_up(world: &Rc<RefCell<Self>>, containers: Fate) {
        if world.borrow().down {
            return;
        }
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
        let ids: Vec<String> =
            this.containers.values().filter(failed).map(|found| found.id.clone()).collect();
        drop(this);
        ids.iter().for_each(|id| Self::start_again(world, id));
    }

    /// Asks to take the machine down, for a process; the machine goes down if `obeys` is true.
    pub fn ask_for_end(world: &Rc<RefCell<Self>>, id: &str, obeys: bool) {
        let mut this = world.borrow_mut();
        this.note(|| format!("{} asks for the machine's end: {obeys}", short(id)));
        this.asked.push((id.to_owned(), Instant::now()));
        if obeys && !this.down {
            (this.down, this.up) = (true, false);
            this.epoch += 1;
            this.containers.values_mut().for_each(|found| found.restarts = false);
            let running = this.running();
            drop(this);
            running.iter().for_each(|id| Self::kill(world, id));
        }
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
        self.containers
            .get(container)
            .or_else(|| self.containers.values().find(|found| found.name == container))
    }

    /// Returns all containers that ever existed.
    pub fn all(&self) -> impl Iterator<Item = &Container> {
        self.containers.values().chain(&self.removed)
    }
}

/// Returns an ID as the trace shows it.
pub fn short(id: &str) -> &str {
    id.trim_start_matches('0')
}

//! A container engine in memory, for the simulation: it has Docker's ways or containerd's, and loses, doubles, delays
//! and refuses what it is told to. Its lives and refusals are those that the real engines were seen to have
//! (docker/seen.rs, docker/refusal.rs, nerdctl/seen.rs, nerdctl/refusal.rs and their recordings).

use std::cell::{RefCell, RefMut};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

use super::{
    About, Answer, Body, Created, Detail, End, Engine, Image, Kind, Life, Listen, Order, Output, Prepared, Progress,
    Refusal, Removal, Request, Seen, Which, Whole,
};
use crate::error::Failure;
use crate::login::Login;
use crate::names::{HandoffId, Role};
use crate::reference::Reference;
use crate::retry::{Retry, chance};
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
    output: Vec<u8>,
    /// How often its command began to run, and when it did last.
    pub starts: u32,
    pub started_at: Option<Instant>,
    /// The engine starts it again if it fails, this often at most.
    restarts_left: u32,
    /// It was ended by a request, so it is not started again.
    stopped: bool,
    /// Its process said at ERROR that something failed.
    pub said: bool,
    /// A later attempt of the same action removed it.
    pub superseded: bool,
    process: Option<AbortHandle>,
    signals: Option<mpsc::UnboundedSender<&'static str>>,
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
    epoch: u32,
    /// Exit codes of containers that are gone.
    events: BTreeMap<String, i64>,
    /// What goes wrong at which request, counted from 0.
    pub faults: BTreeMap<usize, Fault>,
    pub requests: usize,
    /// What happens is noted.
    pub traced: bool,
    pub trace: Vec<String>,
    pub violations: Vec<String>,
    changes: watch::Sender<u64>,
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
            faults: BTreeMap::new(),
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

    fn changed(&mut self) {
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
            starts: 0,
            started_at: None,
            restarts_left: if role == Some(Role::Waiter) { 3 } else { 0 },
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

    /// A container's process says something.
    pub fn say(&mut self, id: &str, line: &str) {
        if let Some(container) = self.containers.get_mut(id) {
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

    /// Lets a container's process be known, which begins now.
    pub fn begins(&mut self, id: &str, process: AbortHandle, signals: Option<mpsc::UnboundedSender<&'static str>>) {
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
        let again = code != 0 && !container.stopped && container.restarts_left > 0;
        this.events.insert(id.to_owned(), code);
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
        if !matches!(container.life, Life::Ended { code, .. } if code != 0) || container.restarts_left == 0 {
            return;
        }
        container.restarts_left -= 1;
        drop(this);
        Self::run(world, id);
    }

    fn run(world: &Rc<RefCell<Self>>, id: &str) {
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
            let _ = signals.send("SIGTERM");
            self.note(|| format!("SIGTERM to {name}"));
        }
    }

    /// The engine goes away. Without live-restore (Docker) all containers end.
    pub fn engine_down(world: &Rc<RefCell<Self>>, containers_live: bool, forgets: bool) {
        let mut this = world.borrow_mut();
        this.note(|| format!("the engine goes down; containers live: {containers_live}; forgets: {forgets}"));
        this.up = false;
        this.epoch += 1;
        if forgets {
            this.events.clear();
        }
        this.changed();
        let ids: Vec<String> = this.containers.keys().cloned().collect();
        drop(this);
        if !containers_live {
            for id in ids {
                Self::kill(world, &id);
            }
        }
    }

    /// The engine is back, and starts what failed meanwhile.
    pub fn engine_up(world: &Rc<RefCell<Self>>) {
        let mut this = world.borrow_mut();
        this.note(|| "the engine is back".into());
        this.up = true;
        this.changed();
        let failed = |container: &&Container| {
            container.restarts_left > 0 && matches!(container.life, Life::Ended { code, .. } if code != 0)
        };
        let ids: Vec<String> = this.containers.values().filter(failed).map(|found| found.id.clone()).collect();
        drop(this);
        ids.iter().for_each(|id| Self::start_again(world, id));
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

    fn find(&self, container: &str) -> Option<&Container> {
        self.containers.get(container).or_else(|| self.containers.values().find(|found| found.name == container))
    }

    /// All containers that ever were.
    pub fn all(&self) -> impl Iterator<Item = &Container> {
        self.containers.values().chain(&self.removed)
    }
}

/// The engine as one process reaches it.
#[derive(Clone)]
pub struct FakeEngine {
    pub world: Rc<RefCell<World>>,
    /// The container in which the client runs.
    pub client: String,
}

impl FakeEngine {
    fn world(&self) -> RefMut<'_, World> {
        self.world.borrow_mut()
    }

    /// One request: counted, traced, with its fault.
    async fn request<T>(
        &self,
        what: impl FnOnce() -> String,
        limit: u64,
        act: impl AsyncFnOnce(&Self, Option<Fault>) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let fault = {
            let mut world = self.world();
            let number = world.requests;
            world.requests += 1;
            let fault = world.faults.get(&number).copied();
            let shown = fault.map(|fault| format!("  <- {fault:?}")).unwrap_or_default();
            world.note(|| format!("#{number} {}: {}{shown}", short(&self.client), what()));
            fault
        };
        sleep(Duration::from_millis(1 + chance::number() % 40)).await;
        let lost = |said: &str| Refusal::new(Kind::MayPass(Retry::UntilDeadline), said);
        match fault {
            Some(Fault::Refused) => return Err(lost("connection refused")),
            Some(Fault::Unknown) => return Err(Refusal::new(Kind::MayPass(Retry::AFewTimes), "HTTP status 500")),
            Some(Fault::Delay) => sleep(Duration::from_secs(2 + chance::number() % 18)).await,
            Some(Fault::Hang) => {
                sleep(Duration::from_secs(limit)).await;
                return Err(lost("no answer in time"));
            }
            Some(Fault::KilledBefore) => self.die().await,
            _ => {}
        }
        if !self.world().up {
            return Err(lost("connection refused: the engine is down"));
        }
        let answer = act(self, fault).await;
        match fault {
            Some(Fault::AnswerLost) => Err(lost("the connection broke")),
            Some(Fault::HangAfter) => {
                sleep(Duration::from_secs(limit)).await;
                Err(lost("no answer in time"))
            }
            Some(Fault::KilledAfter) => {
                self.die().await;
                answer
            }
            _ => answer,
        }
    }

    async fn die(&self) {
        World::kill(&self.world, &self.client);
        std::future::pending::<()>().await;
    }

    fn show(&self, container: &str) -> Option<Seen> {
        let world = self.world();
        let found = world.find(container)?;
        Some(Seen {
            id: found.id.clone(),
            name: found.name.clone(),
            role: found.role,
            action: found.action.clone(),
            handoff: found.handoff.clone(),
            life: found.life.clone(),
            whole: Whole {
                image: "own".into(),
                command: found.command.clone(),
                tty: false,
                deleted_on_success: world.ways == Ways::Containerd,
                document: Value::Null,
            },
        })
    }

    /// Begins a container's process; on containerd in two steps, between which the client may die.
    async fn begin(&self, id: &str) -> Result<(), Refusal> {
        let containerd = self.world().ways == Ways::Containerd;
        if containerd {
            if let Some(found) = self.world().containers.get_mut(id) {
                found.life = Life::Starting { pid: Some(1) };
            }
            sleep(Duration::from_millis(5 + chance::number() % 60)).await;
        }
        if self.world().containers.contains_key(id) {
            World::run(&self.world, id);
            Ok(())
        } else {
            Err(Refusal::new(Kind::Gone, "no such container"))
        }
    }

    async fn start_now(&self, id: &str) -> Result<(), Refusal> {
        let life = self.world().containers.get(id).map(|found| found.life.clone());
        match life {
            None => Err(Refusal::new(Kind::Gone, "no such container")),
            // Both engines start one that has ended again, and say yes to one that runs.
            Some(Life::Running { .. }) => Ok(()),
            Some(_) => self.begin(id).await,
        }
    }

    fn remove_now(&self, id: &str, how: Removal, lie: bool) -> Result<(), Refusal> {
        let containerd = self.world().ways == Ways::Containerd;
        let found = self.world().find(id).map(|found| (found.id.clone(), found.role, found.life.clone()));
        let Some((id, role, life)) = found else {
            return if containerd { Ok(()) } else { Err(Refusal::new(Kind::Gone, "no such container")) };
        };
        let runs = matches!(life, Life::Running { .. });
        if runs && how == Removal::Idle {
            return Err(Refusal::new(Kind::Final, "it runs"));
        }
        if lie && containerd && how != Removal::Idle {
            return Ok(());
        }
        if runs && role == Some(Role::User) {
            let mut world = self.world();
            world.violate("a user container that runs was removed (promise 6)".into());
        }
        let handoff = self.world().containers.get(&id).map(|found| found.handoff.clone()).unwrap_or_default();
        let users_runs = self.world().containers.values().any(|found| {
            found.role == Some(Role::User) && found.handoff == handoff && matches!(found.life, Life::Running { .. })
        });
        if role == Some(Role::Waiter) && users_runs && id != self.client {
            self.world().violate("the waiter of a user container that runs was removed (promise 6)".into());
        }
        let by_another =
            id != self.client && self.world().containers.get(&self.client).is_some_and(|client| client.role.is_none());
        if let Some(found) = self.world().containers.get_mut(&id) {
            found.superseded = by_another;
        }
        World::erase(&self.world, &id);
        Ok(())
    }

    /// Runs a change: Docker's goes on without its client.
    async fn change<T: 'static>(
        &self,
        act: impl AsyncFnOnce(Self) -> Result<T, Refusal> + 'static,
    ) -> Result<T, Refusal> {
        let ways = self.world().ways;
        let this = self.clone();
        if ways == Ways::Containerd {
            return act(this).await;
        }
        let done = tokio::task::spawn_local(async move {
            sleep(Duration::from_millis(1 + chance::number() % 80)).await;
            act(this).await
        });
        done.await.unwrap_or_else(|_| Err(Refusal::new(Kind::Final, "the engine dropped it")))
    }
}

fn short(id: &str) -> &str {
    id.trim_start_matches('0')
}

impl Engine for FakeEngine {
    fn about(&self) -> About {
        let containerd = self.world().ways == Ways::Containerd;
        About {
            described: "a simulated engine".into(),
            check: "look at the simulation",
            keeps_logs: containerd,
            names_cgroups: containerd,
            starts_waiter_early: containerd,
            place: ("volumes", "look at the simulation"),
        }
    }

    fn look<'a>(&'a self, containers: &'a [&'a str], _: Detail) -> Answer<'a, Vec<Seen>> {
        Box::pin(self.request(
            || format!("look {}", containers.join(" ")),
            15,
            async |this: &Self, _| Ok(containers.iter().filter_map(|container| this.show(container)).collect()),
        ))
    }

    fn list<'a>(&'a self, which: Which<'a>) -> Answer<'a, Vec<String>> {
        Box::pin(self.request(
            || "list".into(),
            15,
            async move |this: &Self, _| {
                let world = this.world();
                let is_meant = |found: &&Container| match which {
                    Which::Ours => found.role.is_some(),
                    Which::MadeBy(handoff) => found.handoff == handoff.as_str(),
                    Which::Running => matches!(found.life, Life::Running { .. }),
                };
                Ok(world.containers.values().filter(is_meant).map(|found| found.id.clone()).collect())
            },
        ))
    }

    fn image<'a>(&'a self, image: &'a str) -> Answer<'a, Option<Image>> {
        Box::pin(self.request(
            move || format!("image {image}"),
            15,
            async move |this: &Self, _| {
                let there = image == "own" || this.world().image_present;
                let config = json!({"Cmd": ["/bin/sh"]});
                Ok(there.then(|| Image { id: image.to_owned(), config, document: Value::Null }))
            },
        ))
    }

    fn find_in_registry<'a>(&'a self, _: &'a Reference, _: Option<&'a Login>) -> Answer<'a, ()> {
        Box::pin(self.request(|| "find in registry".into(), 15, async |_: &Self, _| Ok(())))
    }

    fn pull<'a>(&'a self, _: &'a Reference, _: Option<&'a Login>, _: &'a RefCell<Progress>) -> Answer<'a, ()> {
        Box::pin(self.request(
            || "pull".into(),
            30,
            async |this: &Self, _| {
                sleep(Duration::from_secs(1 + chance::number() % 10)).await;
                this.world().image_present = true;
                Ok(())
            },
        ))
    }

    fn prepare<'a>(&'a self, order: &'a Order<'a>) -> Pin<Box<dyn Future<Output = Prepared> + 'a>> {
        if order.action.id != self.client {
            self.world().violate("another container was taken for ours (promise 5)".into());
        }
        let request = |role: Role| {
            let name = role.container_name(&order.action.name);
            let body = Body::Fake(Box::new(order.duty.clone()));
            Some(Request { role, name, handoff: order.duty.handoff.clone(), body })
        };
        let prepared = Prepared { user: request(Role::User), waiter: request(Role::Waiter), ..Prepared::default() };
        Box::pin(async move { prepared })
    }

    fn create<'a>(&'a self, request: &'a Request) -> Answer<'a, Created> {
        let act = |request: Request| {
            async move |this: Self| {
                let taken = this.world().find(&request.name).map(|found| found.id.clone());
                if let Some(by) = taken {
                    return Err(Refusal::new(Kind::NameTaken { by: Some(by) }, "the name is already in use"));
                }
                let id = this.world().add(&request.name, Some(request.role), Some(&request.handoff), &[]);
                this.world().note(|| format!("{} is created: {}", request.name, short(&id)));
                let Body::Fake(duty) = request.body else { return Err(Refusal::new(Kind::Final, "not ours")) };
                if let Some(found) = this.world().containers.get_mut(&id) {
                    found.duty = Some(duty);
                }
                let starts = this.world().ways == Ways::Containerd && request.role == Role::Waiter;
                if starts {
                    this.begin(&id).await?;
                }
                Ok(Created { id, started: starts })
            }
        };
        let made = act(request.clone());
        Box::pin(self.request(
            || format!("create {}", request.name),
            30,
            async |this: &Self, _| this.change(made).await,
        ))
    }

    fn complete<'a>(&'a self, request: &'a Request, _: &'a str) -> Answer<'a, ()> {
        Box::pin(self.request(|| format!("complete {}", request.name), 15, async |_: &Self, _| Ok(())))
    }

    fn start<'a>(&'a self, container: &'a Seen) -> Answer<'a, ()> {
        let id = container.id.clone();
        Box::pin(self.request(
            || format!("start {}", container.name),
            30,
            async |this: &Self, _| this.change(async move |this: Self| this.start_now(&id).await).await,
        ))
    }

    fn wait<'a>(&'a self, container: &'a str, pid: Option<u32>) -> Answer<'a, End> {
        Box::pin(self.request(
            || format!("wait {}", short(container)),
            15,
            async move |this: &Self, _| {
                let containerd = this.world().ways == Ways::Containerd;
                let gone = || Refusal::new(Kind::Gone, "it is gone");
                let life = this.show(container).map(|seen| seen.life);
                let remembered = this.world().events.get(container).copied().filter(|_| !containerd);
                match (life, pid) {
                    (None, _) => {
                        let code = remembered.ok_or_else(gone)?;
                        return Ok(Box::pin(async move { Ok(Life::Ended { code, note: String::new() }) }) as End);
                    }
                    (Some(Life::Running { pid: now }), Some(_)) if containerd && now != pid => return Err(gone()),
                    (Some(Life::Ended { .. } | Life::Created), Some(_)) if containerd => return Err(gone()),
                    _ => {}
                }
                let (world, id, epoch) = (Rc::clone(&this.world), container.to_owned(), this.world().epoch);
                Ok(Box::pin(async move { await_end(world, id, epoch).await }) as End)
            },
        ))
    }

    fn output<'a>(&'a self, listen: Listen<'a>) -> Answer<'a, Box<dyn Output>> {
        Box::pin(self.request(
            || format!("listen to {}", short(listen.container)),
            15,
            async move |this: &Self, _| {
                let world = this.world();
                let found = world.find(listen.container);
                let found = found.ok_or_else(|| Refusal::new(Kind::Gone, "no such container"))?;
                let read = if listen.replay || (!listen.ours && world.ways == Ways::Containerd) {
                    0
                } else {
                    found.output.len()
                };
                let output =
                    FakeOutput { world: Rc::clone(&this.world), id: found.id.clone(), read, epoch: world.epoch };
                Ok(Box::new(output) as Box<dyn Output>)
            },
        ))
    }

    fn remove<'a>(&'a self, container: &'a str, how: Removal) -> Answer<'a, ()> {
        Box::pin(self.request(
            move || format!("remove {} ({how:?})", short(container)),
            30,
            async move |this: &Self, fault| {
                let (lie, id) = (fault == Some(Fault::Lie), container.to_owned());
                let own = id == this.client;
                let done = this.change(async move |this: Self| this.remove_now(&id, how, lie)).await;
                if own && done.is_ok() && !lie {
                    std::future::pending::<()>().await;
                }
                done
            },
        ))
    }

    fn retire<'a>(&'a self, container: &'a str) -> Answer<'a, ()> {
        Box::pin(self.request(
            || format!("retire {}", short(container)),
            30,
            async move |this: &Self, _| {
                if let Some(found) = this.world().containers.get_mut(container) {
                    found.restarts_left = 0;
                }
                Ok(())
            },
        ))
    }
}

async fn await_end(world: Rc<RefCell<World>>, id: String, epoch: u32) -> Result<Life, Refusal> {
    let mut changes = world.borrow().changes.subscribe();
    let containerd = world.borrow().ways == Ways::Containerd;
    loop {
        {
            let world = world.borrow();
            if !containerd && world.epoch != epoch {
                return Err(Refusal::new(Kind::MayPass(Retry::UntilDeadline), "the connection broke"));
            }
            match world.containers.get(&id).map(|found| &found.life) {
                Some(Life::Running { .. } | Life::Starting { .. }) => {}
                // The pidfd tells no more.
                _ if containerd => return Ok(Life::Unknown("its process has ended".into())),
                Some(life @ Life::Ended { .. }) => return Ok(life.clone()),
                // Docker answers a wait for one that never ran at once, with 0 (moby, condition not-running).
                Some(_) => return Ok(Life::Ended { code: 0, note: String::new() }),
                // Removed while the answer was open: it has the exit code.
                None => {
                    let code = world.events.get(&id).copied().unwrap_or(137);
                    return Ok(Life::Ended { code, note: String::new() });
                }
            }
        }
        if changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

struct FakeOutput {
    world: Rc<RefCell<World>>,
    id: String,
    read: usize,
    epoch: u32,
}

impl Output for FakeOutput {
    fn next(&mut self) -> Answer<'_, Option<Vec<u8>>> {
        Box::pin(async move {
            let mut changes = self.world.borrow().changes.subscribe();
            loop {
                {
                    let world = self.world.borrow();
                    let found = world.containers.get(&self.id);
                    let more = found.map(|found| found.output[self.read.min(found.output.len())..].to_vec());
                    let live = found.is_some_and(|found| {
                        matches!(found.life, Life::Running { .. } | Life::Starting { .. })
                            || (world.ways == Ways::Docker && found.life == Life::Created)
                    });
                    let broken = world.ways == Ways::Docker && world.epoch != self.epoch;
                    match more {
                        Some(more) if !more.is_empty() && !broken => {
                            self.read += more.len();
                            return Ok(Some(more));
                        }
                        _ if !live || broken => return Ok(None),
                        _ => {}
                    }
                }
                if changes.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        })
    }
}

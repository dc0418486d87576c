//! Plays a scenario: the agent, the processes and what happens to them.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::promises;
use super::scenario::{Agent, Event, Scenario, Target};
use crate::choose::query_first;
use crate::end::Init;
use crate::engine::Life;
use crate::engine::fake::{FakeEngine, Fate, Ways, World};
use crate::handoff;
use crate::handoff::job::Job;
use crate::machine::Machine;
use crate::machine::clock::Clock;
use crate::machine::procfs::Traces;
use crate::names::{RequestMark, Role};
use crate::process::{EndTarget, JournalFile, Process};
use crate::retry::chance;
use crate::settings::Settings;
use crate::signals::{Signal, Signals};
use crate::waiter::{self, Exit};

/// The name under which the agent runs the action, every time.
pub const ACTION: &str = "tinkerbell_last_a0";
/// What the action runs.
const COMMAND: [&str; 2] = ["/waitdaemon", "true"];
/// What it runs if it is to end the machine.
const END: [&str; 2] = ["/waitdaemon", "reboot"];
/// How long the agent gives an action between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(5);
/// After this time and the wait, nothing may happen any more.
const WHOLE: Duration = Duration::from_secs(3600);

/// One attempt to run the action.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The action container.
    pub id: String,
    /// Its exit code, once it has ended, and when it ended.
    pub code: Option<i64>,
    pub ended_at: Option<Instant>,
    /// What the agent reported, and when; `None` if the agent died first.
    pub reported: Option<bool>,
    pub reported_at: Option<Instant>,
}

/// The state of a run in progress.
pub struct Stage {
    pub scenario: Scenario,
    pub world: Rc<RefCell<World>>,
    pub attempts: RefCell<Vec<Attempt>>,
    agent_lives: Cell<bool>,
    /// Waiters that were told to stop, and when.
    pub stopped: RefCell<Vec<(String, Instant)>>,
    boot: Instant,
}

/// Plays a scenario; returns the violations and, if `traced`, what happened.
pub fn play(scenario: &Scenario, traced: bool) -> (Vec<String>, Vec<String>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        let stage = Stage::new(scenario.clone());
        stage.world.borrow_mut().traced = traced;
        let events = spawn_local(Rc::clone(&stage).events());
        let first = spawn_local(Rc::clone(&stage).serve());
        sleep(WHOLE + Duration::from_secs(scenario.wait_seconds)).await;
        promises::check(&stage);
        events.abort();
        first.abort();
        let mut world = stage.world.borrow_mut();
        (std::mem::take(&mut world.violations), std::mem::take(&mut world.trace))
    })
}

impl Stage {
    fn new(scenario: Scenario) -> Rc<Self> {
        let world = World::new(scenario.ways);
        {
            let mut world = world.borrow_mut();
            world.image_present = scenario.image_present;
            world.faults.clone_from(&scenario.faults);
            (world.journal_death, world.kernel_tells) =
                (scenario.journal_death, scenario.kernel_tells);
        }
        let stage = Rc::new(Self {
            scenario,
            world: Rc::clone(&world),
            attempts: RefCell::new(Vec::new()),
            agent_lives: Cell::new(true),
            stopped: RefCell::new(Vec::new()),
            boot: Instant::now(),
        });
        // A weak link: otherwise the world would keep itself alive after the run.
        let weak = Rc::downgrade(&stage);
        world.borrow_mut().set_spawn(Rc::new(move |_, id| {
            if let Some(stage) = weak.upgrade() {
                stage.run(id);
            }
        }));
        stage
    }

    /// Starts a container's process: the waiter's, or the user container's.
    fn run(self: &Rc<Self>, id: &str) {
        let (role, duty) = match self.world.borrow().containers.get(id) {
            Some(found) => (found.role, found.duty.clone()),
            None => return,
        };
        let (world, own) = (Rc::clone(&self.world), id.to_owned());
        match (role, duty) {
            (Some(Role::Waiter), Some(duty)) => {
                let (send, receive) = mpsc::unbounded_channel();
                let process = self.process(id, &["/waiter"]);
                let engine = FakeEngine { world: Rc::clone(&world), client: own.clone() };
                let task = spawn_local(async move {
                    let code = match waiter::run(
                        &engine,
                        &process,
                        &duty,
                        &mut Signals::simulated(receive),
                    )
                    .await
                    {
                        Exit::Done => 0,
                        Exit::Failed => 2,
                        Exit::Interrupted => 75,
                    };
                    World::ended(&world, &own, code);
                });
                self.world.borrow_mut().begins(id, task.abort_handle(), Some(send));
            }
            _ => {
                let (lasts, code) = self.scenario.user;
                let task = spawn_local(async move {
                    sleep(lasts).await;
                    World::ended(&world, &own, code);
                });
                self.world.borrow_mut().begins(id, task.abort_handle(), None);
            }
        }
    }

    fn process(self: &Rc<Self>, id: &str, command: &[&str]) -> Process {
        let (world, own) = (Rc::clone(&self.world), id.to_owned());
        let (world_too, own_too) = (Rc::clone(&self.world), id.to_owned());
        let (world_for_journal, own_for_journal) = (Rc::clone(&self.world), id.to_owned());
        let (world_for_end, own_for_end) = (Rc::clone(&self.world), id.to_owned());
        let init_obeys = self.scenario.init_obeys;
        let traced = self.traces(id);
        Process {
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            request: RequestMark::default(),
            machine: Machine {
                command_line: String::new(),
                init: Init::BusyBox,
                boot: "one".into(),
                has_network: true,
            },
            request_end: Box::new(move |whom, _| {
                World::ask_for_end(
                    &world_for_end,
                    &own_for_end,
                    init_obeys || whom == EndTarget::Kernel,
                );
                Ok(())
            }),
            flush_disks: Box::new(|| Box::pin(std::future::ready(()))),
            clock: Clock::Simulated { boot: self.boot },
            read_traces: Box::new(move || traced.clone()),
            announce: Box::new(move |message, handoff| {
                let line = serde_json::json!({"message": message, "handoff": handoff.as_str()});
                world.borrow_mut().say(&own, &format!("{line}\n"));
            }),
            log_failure: Box::new(move |failure| world_too.borrow_mut().fail(&own_too, failure)),
            open_journal: Box::new(move |_| {
                let (world, own) = (Rc::clone(&world_for_journal), own_for_journal.clone());
                let (world_to_read, own_to_read) = (Rc::clone(&world), own.clone());
                let read = move || {
                    let world = world_to_read.borrow();
                    Ok(world
                        .containers
                        .get(&own_to_read)
                        .map(|found| found.journal.concat())
                        .unwrap_or_default())
                };
                let add = move |line: &str| {
                    World::keep(&world, &own, &format!("{line}\n"));
                    Ok(())
                };
                Ok(JournalFile { read: Box::new(read), add: Box::new(add) })
            }),
        }
    }

    /// Returns traces that may name another container first, or not name ours at all.
    fn traces(&self, id: &str) -> Traces {
        let decoy = self
            .world
            .borrow()
            .containers
            .values()
            .find(|found| found.name == "decoy")
            .map(|f| f.id.clone());
        let ids = match chance::number() % 3 {
            0 => decoy.into_iter().chain([id.to_owned()]).collect(),
            1 => decoy.into_iter().collect(),
            _ => vec![id.to_owned()],
        };
        let cgroup = if chance::number().is_multiple_of(2) {
            format!("0::/tinkerbell/{id}")
        } else {
            "0::/".to_owned()
        };
        Traces { ids, cgroup }
    }

    /// Runs the action once, as the agent does, and reports.
    async fn serve(self: Rc<Self>) {
        if self.world.borrow().down {
            return;
        }
        let command = self.command().map(str::to_owned);
        let id = {
            let mut world = self.world.borrow_mut();
            if !world.containers.values().any(|found| found.name == "decoy") {
                let decoy = world.add("decoy", None, None, &command);
                world
                    .containers
                    .entry(decoy)
                    .and_modify(|found| found.life = Life::Running { pid: Some(2) });
            }
            world.add(ACTION, None, None, &command)
        };
        let attempt = Attempt {
            id: id.clone(),
            code: None,
            ended_at: None,
            reported: None,
            reported_at: None,
        };
        let number = self.attempts.borrow().len();
        self.attempts.borrow_mut().push(attempt);
        let (send, receive) = mpsc::unbounded_channel();
        let (stage, own) = (Rc::clone(&self), id.clone());
        let task = spawn_local(async move {
            let code = stage.hand_over(&own, receive).await;
            World::ended(&stage.world, &own, code);
        });
        self.world.borrow_mut().begins(&id, task.abort_handle(), Some(send));
        let code = match timeout(self.scenario.timeout, self.ended(&id)).await {
            Ok(code) => Some(code),
            Err(_) if self.agent_lives.get() => {
                self.world.borrow_mut().terminate(&id);
                if timeout(GRACE, self.ended(&id)).await.is_err() {
                    World::kill(&self.world, &id);
                }
                None
            }
            Err(_) => None,
        };
        let code_now = self.ended(&id).await;
        self.note_end(number, code_now);
        if !self.agent_lives.get() {
            return;
        }
        sleep(self.scenario.agent_takes).await;
        if !self.agent_lives.get() {
            return;
        }
        let success = code == Some(0);
        match (self.scenario.ways, self.scenario.agent) {
            (Ways::Containerd, Agent::Usual | Agent::CannotDelete) if !success => {
                // The task is deleted; the container stays and looks as if it never ran.
                if let Some(found) = self.world.borrow_mut().containers.get_mut(&id) {
                    found.life = Life::Created;
                }
            }
            (Ways::Containerd, Agent::CannotDelete) => {
                if let Some(found) = self.world.borrow_mut().containers.get_mut(&id) {
                    found.log_removed = true;
                }
            }
            _ => World::erase(&self.world, &id),
        }
        {
            let mut attempts = self.attempts.borrow_mut();
            (attempts[number].reported, attempts[number].reported_at) =
                (Some(success), Some(Instant::now()));
        }
        self.world
            .borrow_mut()
            .note(|| format!("the agent reports {}", if success { "SUCCESS" } else { "FAILED" }));
    }

    fn command(&self) -> [&'static str; 2] {
        if self.scenario.own_end { END } else { COMMAND }
    }

    fn note_end(&self, number: usize, code: i64) {
        let mut attempts = self.attempts.borrow_mut();
        attempts[number].code = Some(code);
    }

    /// Runs the action container's process; returns its exit code.
    async fn hand_over(self: &Rc<Self>, id: &str, signals: mpsc::UnboundedReceiver<Signal>) -> i64 {
        let engine = FakeEngine { world: Rc::clone(&self.world), client: id.to_owned() };
        let process = self.process(id, &self.command());
        let image = if self.scenario.own_end { "" } else { "alpine" };
        let fallback = if self.scenario.fallback { "reboot" } else { "" };
        let variables = [
            ("IMAGE", image.to_owned()),
            ("WAITDAEMON_FALLBACK", fallback.to_owned()),
            ("WAIT_SECONDS", self.scenario.wait_seconds.to_string()),
            ("WAITDAEMON_WATCH_SECONDS", self.scenario.watch_seconds.to_string()),
        ];
        let settings = Settings::read(
            variables.map(|(name, value)| (name.into(), value.into())),
            &process.command[1..],
        )
        .unwrap();
        let mut stop = Signals::simulated(signals);
        let reached = match query_first(Box::new(engine), &settings, &process).await {
            Ok(reached) => reached,
            Err(failure) => {
                (process.log_failure)(&failure);
                return 12;
            }
        };
        let job = Job::new(&reached, &process, &settings, None).unwrap();
        match handoff::run(&job, &mut stop).await {
            Ok(()) => 0,
            Err(failures) => {
                failures.iter().for_each(|failure| (process.log_failure)(failure));
                1
            }
        }
    }

    /// Waits for a container's end; returns its exit code.
    async fn ended(&self, id: &str) -> i64 {
        let mut changes = self.world.borrow().subscribe();
        loop {
            match self
                .world
                .borrow()
                .all()
                .find(|found| found.id == id)
                .map(|found| found.life.clone())
            {
                Some(Life::Ended { code, .. }) => {
                    let mut attempts = self.attempts.borrow_mut();
                    if let Some(attempt) = attempts.iter_mut().find(|attempt| attempt.id == id) {
                        attempt.ended_at.get_or_insert_with(Instant::now);
                    }
                    return code;
                }
                Some(Life::Running { .. }) => {}
                _ => return 137,
            }
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Makes the scenario's events happen at their times.
    async fn events(self: Rc<Self>) {
        for (at, event) in self.scenario.events.clone() {
            sleep_until(self.boot + at).await;
            match event {
                Event::Kill(Target::Agent) => {
                    self.world.borrow_mut().note(|| "the agent dies".into());
                    self.agent_lives.set(false);
                }
                Event::Kill(target) => {
                    if let Some(id) = self.newest(target) {
                        World::kill(&self.world, &id);
                    }
                }
                Event::Stop(target) => {
                    if let Some(id) = self.newest(target) {
                        self.world.borrow_mut().terminate(&id);
                        self.stopped.borrow_mut().push((id, Instant::now()));
                    }
                }
                // The engine is already away.
                Event::Engine { .. } if !self.world.borrow().up => {}
                Event::Engine { away, containers, forgets } => {
                    World::engine_down(&self.world, containers, forgets);
                    // There, the agent is itself a container of the engine.
                    if containers != Fate::Live {
                        self.agent_lives.set(false);
                    }
                    let world = Rc::clone(&self.world);
                    spawn_local(async move {
                        sleep(away).await;
                        World::engine_up(&world, containers);
                    });
                }
                Event::Again => {
                    self.world.borrow_mut().note(|| "the same action is served again".into());
                    spawn_local(Rc::clone(&self).serve());
                }
            }
        }
    }

    /// Returns the newest container that runs such a process.
    fn newest(&self, target: Target) -> Option<String> {
        let world = self.world.borrow();
        let role = (target == Target::Waiter).then_some(Role::Waiter);
        let name = |name: &str| role.is_some() || name == ACTION;
        let mut running = world.containers.values().filter(|found| {
            found.role == role && name(&found.name) && matches!(found.life, Life::Running { .. })
        });
        running.next_back().map(|found| found.id.clone())
    }

    /// Returns the attempt of this action container.
    pub fn attempt_of(&self, action_id: &str) -> Option<Attempt> {
        self.attempts.borrow().iter().find(|attempt| attempt.id == action_id).cloned()
    }
}

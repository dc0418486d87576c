//! An in-memory container engine for the simulation. It behaves like Docker or containerd, and
//! loses, doubles, delays and refuses what it is told to. Its lives and refusals are those seen on
//! the real engines (docker/seen.rs, docker/refusal.rs, nerdctl/seen.rs, nerdctl/refusal.rs and
//! their recordings).

mod waits;
mod world;

use std::cell::{RefCell, RefMut};
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use self::waits::{FakeOutput, await_end};
use self::world::short;
pub use self::world::{Container, Fate, Fault, Ways, World};

use super::{
    About, Answer, Created, Detail, Engine, Image, Kind, Life, Listen, Order, Output, PendingEnd,
    Prepared, Pulling, Refusal, Removal, Request, Seen, Which, Whole,
};
use crate::engine::platform::Platform;
use crate::login::Login;
use crate::names::{RequestMark, Role};
use crate::reference::Reference;
use crate::retry::{Retry, chance};
use crate::ticket::Duty;

/// The engine as one process sees it.
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

    /// Handles one request: counts it, traces it and applies its fault.
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
            Some(Fault::Unknown) => {
                return Err(Refusal::new(Kind::MayPass(Retry::AFewTimes), "HTTP status 500"));
            }
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
            request: RequestMark::default(),
            made_by: found.duty.as_ref().map(|duty| duty.action_id.clone()).unwrap_or_default(),
            life: found.life.clone(),
            folder: Some("/".into()),
            log_removed: found.log_removed,
            whole: Whole {
                image: "own".into(),
                command: found.command.clone(),
                tty: false,
                has_host_pids: true,
                deleted_on_success: world.ways == Ways::Containerd,
                document: Value::Null,
            },
        })
    }

    /// Starts a container's process; on containerd in two steps, between which the client may die.
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
            // Both engines start an ended container again, and report success for a running one.
            Some(Life::Running { .. }) => Ok(()),
            Some(_) => self.begin(id).await,
        }
    }

    fn remove_now(&self, id: &str, how: Removal, lie: bool) -> Result<(), Refusal> {
        let containerd = self.world().ways == Ways::Containerd;
        let found =
            self.world().find(id).map(|found| (found.id.clone(), found.role, found.life.clone()));
        let Some((id, role, life)) = found else {
            return if containerd {
                Ok(())
            } else {
                Err(Refusal::new(Kind::Gone, "no such container"))
            };
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
        let handoff =
            self.world().containers.get(&id).map(|found| found.handoff.clone()).unwrap_or_default();
        let users_runs = self.world().containers.values().any(|found| {
            found.role == Some(Role::User)
                && found.handoff == handoff
                && matches!(found.life, Life::Running { .. })
        });
        if role == Some(Role::Waiter) && users_runs && id != self.client {
            self.world()
                .violate("the waiter of a user container that runs was removed (promise 6)".into());
        }
        let by_another = id != self.client
            && self
                .world()
                .containers
                .get(&self.client)
                .is_some_and(|client| client.role.is_none());
        if let Some(found) = self.world().containers.get_mut(&id) {
            found.superseded = by_another;
        }
        World::erase(&self.world, &id);
        Ok(())
    }

    /// Runs a change; Docker carries on without its client.
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

impl Engine for FakeEngine {
    fn about(&self) -> About {
        let containerd = self.world().ways == Ways::Containerd;
        About {
            described: "a simulated engine".into(),
            check: "look at the simulation",
            keeps_logs: containerd,
            names_cgroups: containerd,
            keeps_lives: !containerd,
            starts_waiter_early: containerd,
            trust: "look at the simulation",
            place: ("volumes", "look at the simulation"),
        }
    }

    fn inspect<'a>(&'a self, containers: &'a [&'a str], _: Detail) -> Answer<'a, Vec<Seen>> {
        Box::pin(self.request(
            || format!("inspect {}", containers.join(" ")),
            15,
            async |this: &Self, _| {
                Ok(containers.iter().filter_map(|container| this.show(container)).collect())
            },
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
                    Which::OfHandoff(handoff) => found.handoff == handoff.as_str(),
                    Which::Running => matches!(found.life, Life::Running { .. }),
                };
                Ok(world
                    .containers
                    .values()
                    .filter(is_meant)
                    .map(|found| found.id.clone())
                    .collect())
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
                Ok(there.then(|| Image {
                    id: image.to_owned(),
                    name: image.to_owned(),
                    platform: None,
                    config,
                    document: Value::Null,
                }))
            },
        ))
    }

    fn pull<'a>(
        &'a self,
        _: &'a Reference,
        _: Option<&'a Login>,
        how: Pulling<'a>,
    ) -> Answer<'a, Vec<Platform>> {
        Box::pin(self.request(
            move || format!("{how:?}"),
            30,
            async move |this: &Self, _| {
                if let Pulling::Whole(_) = how {
                    sleep(Duration::from_secs(1 + chance::number() % 10)).await;
                    this.world().image_present = true;
                }
                Ok(Vec::new())
            },
        ))
    }

    fn prepare<'a>(&'a self, order: &'a Order<'a>) -> Pin<Box<dyn Future<Output = Prepared> + 'a>> {
        if order.action.id != self.client {
            self.world().violate("another container was taken for ours (promise 5)".into());
        }
        let request = |role| Some(order.request(role, order.duty.clone()));
        let user = order.user.as_ref().and_then(|_| request(Role::User));
        let prepared = Prepared { user, waiter: request(Role::Waiter), ..Prepared::default() };
        Box::pin(async move { prepared })
    }

    fn create<'a>(&'a self, request: &'a Request) -> Answer<'a, Created> {
        let act = |request: Request| {
            async move |this: Self| {
                let taken = this.world().find(&request.name).map(|found| found.id.clone());
                if let Some(by) = taken {
                    return Err(Refusal::new(
                        Kind::NameTaken { by: Some(by) },
                        "the name is already in use",
                    ));
                }
                let id = this.world().add(
                    &request.name,
                    Some(request.role),
                    Some(&request.handoff),
                    &[],
                );
                this.world().note(|| format!("{} is created: {}", request.name, short(&id)));
                let duty = request.body::<Duty>()?.clone();
                if let Some(found) = this.world().containers.get_mut(&id) {
                    found.duty = Some(Box::new(duty));
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
        Box::pin(self.request(
            || format!("complete {}", request.name),
            15,
            async |_: &Self, _| Ok(()),
        ))
    }

    fn start<'a>(&'a self, container: &'a Seen) -> Answer<'a, ()> {
        let id = container.id.clone();
        Box::pin(self.request(
            || format!("start {}", container.name),
            30,
            async |this: &Self, _| {
                this.change(async move |this: Self| this.start_now(&id).await).await
            },
        ))
    }

    fn wait<'a>(&'a self, container: &'a str, pid: Option<u32>) -> Answer<'a, PendingEnd> {
        Box::pin(self.request(
            || format!("wait {}", short(container)),
            15,
            async move |this: &Self, _| {
                let containerd = this.world().ways == Ways::Containerd;
                let gone = || Refusal::new(Kind::Gone, "it is gone");
                let life = this.show(container).map(|seen| seen.life);
                let remembered =
                    this.world().events.get(container).copied().filter(|_| !containerd);
                match (life, pid) {
                    (None, _) => {
                        let code = remembered.ok_or_else(gone)?;
                        return Ok(Box::pin(
                            async move { Ok(Life::Ended { code, note: String::new() }) },
                        ) as PendingEnd);
                    }
                    (Some(Life::Running { pid: now }), Some(_)) if containerd && now != pid => {
                        return Err(gone());
                    }
                    (Some(Life::Ended { .. } | Life::Created), Some(_)) if containerd => {
                        return Err(gone());
                    }
                    _ => {}
                }
                let (world, id, epoch) =
                    (Rc::clone(&this.world), container.to_owned(), this.world().epoch);
                Ok(Box::pin(async move { await_end(world, id, epoch).await }) as PendingEnd)
            },
        ))
    }

    fn give_word<'a>(&'a self, waiter: &'a str) -> Answer<'a, ()> {
        Box::pin(self.request(
            move || format!("give word to {}", short(waiter)),
            15,
            async move |this: &Self, _| {
                let not_now =
                    || Refusal::new(Kind::MayPass(Retry::UntilDeadline), "it is not running");
                this.world().word(waiter).then_some(()).ok_or_else(not_now)
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
                let output = FakeOutput {
                    world: Rc::clone(&this.world),
                    id: found.id.clone(),
                    read,
                    epoch: world.epoch,
                };
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
                if how == Removal::Own && !own {
                    // A process that removes itself leaves its cgroup first, and then no waiter
                    // finds it there.
                    let another = "another container was removed as the process's own (promise 12)";
                    this.world().violate(another.into());
                }
                let done =
                    this.change(async move |this: Self| this.remove_now(&id, how, lie)).await;
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
                    found.restarts = false;
                }
                Ok(())
            },
        ))
    }
}

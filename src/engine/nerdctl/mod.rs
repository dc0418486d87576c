//! containerd through nerdctl: the seam's primitives as calls of nerdctl.
//!
//! With NERDCTL_HOST, the default, we run in the host's namespaces from the start, so the action needs
//! no volumes, only `pid: host`. Without it nerdctl runs in our own namespaces, on the volumes that
//! docs/quick-start.md lists.

pub mod check;
mod cli;
pub mod flags;
mod log;
mod own;
mod process;
pub mod refusal;
pub mod seen;
mod spec;
mod waiter_call;

use std::cell::OnceCell;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use self::cli::{Cli, CliError};
use self::flags::Creation;
use self::log::{LogCommand, LogFile};
use self::own::{VOLUMES, own_program};
use self::process::Process;
use self::refusal::{of_change, of_question};
use self::waiter_call::WaiterParts;
use super::json::differences;
use super::registry::refusal_of_pull;
use super::{
    About, Answer, Created, Detail, End, Engine, Image, Kind, Life, Listen, Order, Output, Prepared, Pulling, Refusal,
    Removal, Request, Seen, Which,
};
use crate::error::{Context, Failure};
use crate::login::{self, Config, Login};
use crate::machine::namespaces;
use crate::names::{JOURNAL_FILE, LABEL_ACTION, LABEL_HANDOFF, Role, WORD};
use crate::reference::Reference;
use crate::retry::Retry;
use crate::ticket::{EngineTicket, Ticket};

/// How long containerd may take to see that a process has ended.
const END_LIMIT: Duration = Duration::from_secs(10);
/// Between two looks whether it has.
const PAUSE: Duration = Duration::from_millis(100);

const CHECK: &str = "check containerd and nerdctl of the OSIE: one of them is down or unhealthy";

/// Where nerdctl keeps what it knows of containers, unless one of them names another place: for containerd at its usual
/// address (nerdctl, `clientutil.DataStore`).
const CONTAINERS: &str = "/var/lib/nerdctl/1935db59/containers";

/// nerdctl, reached.
pub struct Nerdctl {
    cli: Cli,
    in_host: bool,
    namespace: String,
    /// Where it has a folder for each container of the namespace; learned from the first container that says so.
    folders: OnceCell<PathBuf>,
}

/// A call of nerdctl that creates a container.
#[derive(Debug, Clone)]
pub struct Call {
    creation: Creation,
    /// The documents of the action and of its image, against which the new container is held.
    held_against: Option<(Value, Value)>,
}

/// The machine as this process sees it, which is as nerdctl sees it.
struct Host;

impl flags::Host for Host {
    fn block_device(&self, major: u64, minor: u64) -> Option<String> {
        namespaces::block_device(major, minor)
    }
    fn propagates(&self, path: &str) -> bool {
        namespaces::propagates(path)
    }
}

impl Nerdctl {
    /// nerdctl, in the host's namespaces (`in_host`) or in our own, if it is there.
    ///
    /// # Errors
    /// Why nerdctl cannot be used, with what mends it.
    pub async fn reach(in_host: bool, namespace: &str) -> Result<Self, Failure> {
        let nerdctl = Self::open(in_host, namespace)?;
        if in_host && !Cli::is_installed("nerdctl") {
            return Err(Failure::new("the host has no nerdctl in /usr/local/bin or another usual place")
                .field("environment.CONTAINER_RUNTIME")
                .fix("use an OSIE with nerdctl, such as CaptainOS"));
        }
        login::clear_leftovers();
        Ok(nerdctl)
    }

    /// As [`Nerdctl::reach`], for a waiter, whose handoff did that.
    ///
    /// # Errors
    /// If the host cannot be entered, or what nerdctl needs in our own namespaces is missing.
    pub fn open(in_host: bool, namespace: &str) -> Result<Self, Failure> {
        let program = if in_host {
            namespaces::enter()?;
            "nerdctl"
        } else {
            own_program()?
        };
        let cli = Cli::new(program, namespace);
        Ok(Self { cli, in_host, namespace: namespace.to_owned(), folders: OnceCell::new() })
    }

    /// Shows one container.
    async fn show(&self, container: &str, detail: Detail) -> Result<Option<Seen>, Refusal> {
        match self.show_all(&[container], detail).await {
            Ok(found) => match found.into_iter().next() {
                Some(seen) => Ok(Some(seen)),
                None => Err(of_question(CliError::Empty { call: "container inspect".into() })),
            },
            Err(refusal) if refusal.is_gone() => Ok(None),
            Err(refusal) => Err(refusal),
        }
    }

    /// Shows these containers, of which all must be there.
    async fn show_all(&self, containers: &[&str], detail: Detail) -> Result<Vec<Seen>, Refusal> {
        let format: &[&str] = if detail == Detail::Life { &["--format", seen::LITTLE] } else { &[] };
        let call = [&["container", "inspect", "--mode=native"], format, containers].concat();
        let documents = self.cli.documents(&call).await.map_err(of_question)?;
        if documents.len() != containers.len() {
            return Err(of_question(CliError::Empty { call: "container inspect".into() }));
        }
        let show = |document: Value| {
            let seen = seen::container(document, detail)?;
            if let Some(parent) = seen.folder.as_deref().and_then(Path::parent) {
                let _ = self.folders.set(parent.to_owned());
            }
            // Not the folder: nerdctl makes it anew when it inspects (2.2.1).
            let log = seen.folder.as_ref().map(|folder| folder.join(format!("{}-json.log", seen.id)));
            let log_removed = log.is_some_and(|log| !log.exists());
            Ok(Seen { log_removed, ..seen })
        };
        documents.into_iter().map(show).collect()
    }

    fn folders(&self) -> PathBuf {
        self.folders.get().cloned().unwrap_or_else(|| Path::new(CONTAINERS).join(&self.namespace))
    }

    /// Frees a name of ours that a nerdctl kept which was killed half-way, with the action that it worked for: no
    /// container has it, and no process that runs is about it. True if it is free now.
    async fn free_name(&self, name: &str, holder: &str) -> bool {
        // Another run of this action, at this very moment, has the name before it has the container.
        let all_are_seen = self.in_host || namespaces::pids_are_the_hosts();
        if !all_are_seen || namespaces::is_an_argument(name) {
            return false;
        }
        if !matches!(self.show(holder, Detail::Life).await, Ok(None)) {
            return false;
        }
        // nerdctl's store of names has a file for each, which holds the container's ID (pkg/namestore).
        let folders = self.folders();
        let Some(store) = folders.ancestors().nth(2) else { return false };
        let file = store.join("names").join(&self.namespace).join(name);
        let kept = std::fs::read_to_string(&file).is_ok_and(|id| id == holder);
        let freed = kept && std::fs::remove_file(&file).is_ok();
        if freed {
            tracing::warn!(container = holder, "freed the name {name}, which a nerdctl that was killed had kept");
        }
        freed
    }

    async fn create_once(&self, request: &Request) -> Result<Created, Refusal> {
        let Creation { arguments, input } = &request.body::<Call>()?.creation;
        let call: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let id = self.cli.run(&call, input).await.map_err(of_change)?;
        if id.trim().is_empty() {
            return Err(of_change(CliError::Empty { call: "create".into() }));
        }
        Ok(Created { id: id.trim().to_owned(), started: call.first() == Some(&"run") })
    }

    /// Ends a process that somebody created and did not live to start: its container can be started anew then.
    async fn end_half_started(&self, container: &Seen) -> Result<(), Refusal> {
        let Some(pid) = container.life.pid() else { return Ok(()) };
        tracing::warn!(container = container.id, "its start was interrupted half-way; starting it anew");
        let passing = |said: String| Refusal::new(Kind::MayPass(Retry::UntilDeadline), said);
        let process = match Process::open(pid, &container.id) {
            Ok(process) => process,
            Err(_) => return Ok(()),
        };
        process
            .signal(Signal::KILL)
            .map_err(|error| passing(format!("cannot end process {pid}, which waits to be started: {error}")))?;
        let end = Instant::now() + END_LIMIT;
        let _ = timeout(END_LIMIT, process.ended()).await;
        loop {
            match self.show(&container.id, Detail::Life).await? {
                Some(seen) if matches!(seen.life, Life::Starting { .. }) && Instant::now() < end => sleep(PAUSE).await,
                Some(seen) if matches!(seen.life, Life::Starting { .. }) => {
                    return Err(passing("containerd does not see that a process has ended".into()));
                }
                _ => return Ok(()),
            }
        }
    }

    /// Opens the wait for a process by a pidfd. If the kernel does not say how it ended, containerd is to be asked.
    async fn open_wait(&self, container: &str, pid: Option<u32>) -> Result<End, Refusal> {
        let gone = || Refusal::new(Kind::Gone, "its process has ended");
        let life = match pid {
            Some(pid) => Life::Running { pid: Some(pid) },
            None => self.show(container, Detail::Life).await?.ok_or_else(gone)?.life,
        };
        let ended = || Life::Unknown("its process has ended".into());
        match life.pid().map(|pid| Process::open(pid, container)) {
            Some(Ok(process)) => Ok(Box::pin(async move {
                let failed = |error: std::io::Error| Refusal::new(Kind::Final, error.to_string());
                let code = process.ended().await.map_err(failed)?;
                Ok(code.map_or_else(ended, |code| Life::Ended { code, note: String::new() }))
            })),
            Some(Err(_)) if pid.is_some() => Err(gone()),
            Some(Err(_)) => Ok(Box::pin(async move { Ok(ended()) })),
            None => Ok(Box::pin(async move { Ok(life) })),
        }
    }

    /// nerdctl with the login, and the configuration in which that is, as long as it is needed.
    fn logged_in(&self, image: &Reference, login: Option<&Login>) -> Result<(Cli, Option<Config>), Refusal> {
        let Some(login) = login else { return Ok((self.cli.clone(), None)) };
        let failed = |error| Refusal::new(Kind::Final, format!("cannot keep the registry's login in /run: {error}"));
        let config = login.docker_config(image).map_err(failed)?;
        Ok((self.cli.with_config(config.folder()), Some(config)))
    }

    /// Asks for the action's published ports if its document does not show them: nerdctl sees them only if it sees the
    /// action's process. They cannot be published again.
    async fn hidden_ports(&self, action: &Value) -> Result<(), Failure> {
        if !spec::made_by_nerdctl(action) || !action["Process"]["NetNS"].is_null() {
            return Ok(());
        }
        let id = action["ID"].as_str().unwrap_or_default();
        let ports = self.cli.ask(&["port", id]).await.context("cannot ask for the action's published ports")?;
        if ports.trim().is_empty() {
            return Ok(());
        }
        Err(Failure::new(format!("cannot publish the action's ports again: {}", ports.trim().replace('\n', ", ")))
            .fix("leave them out of the action: two containers cannot have the same port"))
    }

    /// Builds both calls.
    async fn build(&self, order: &Order<'_>) -> Prepared {
        let mut prepared = Prepared::default();
        let (action, own) = (&order.action.whole.document, &order.own_image.document);
        let request = |role: Role, creation, held_against| Request {
            role,
            name: role.container_name(&order.action.name),
            handoff: order.duty.handoff.clone(),
            body: Rc::new(Call { creation, held_against }),
        };
        match self.user(order) {
            Ok(mut creation) => {
                prepared.words = creation.words().iter().map(|word| word.as_str().into()).collect();
                // Held against the call that would make the action itself.
                let name = order.action.name.as_str();
                let same = flags::user_container(action, &Value::Null, &order.action.whole.image, name, &[], &Host);
                let same = same.map(|creation| Value::from(creation.arguments)).unwrap_or_default();
                let user = Value::from(creation.arguments.clone());
                differences("nerdctl create", &same, &user, &mut prepared.differences);
                creation.arguments.insert(0, "create".into());
                prepared.user = Some(request(Role::User, creation, Some((action.clone(), own.clone()))));
            }
            Err(not_carried) => prepared.refusals.push(not_carried.into()),
        }
        let restart = &action["Labels"]["containerd.io/restart.policy"];
        differences("--restart", restart, &Value::Null, &mut prepared.differences);
        prepared.problems.extend(self.hidden_ports(action).await.err());
        let ticket = Ticket {
            engine: EngineTicket::Nerdctl { host: self.in_host, namespace: self.namespace.clone() },
            duty: order.duty.clone(),
        };
        match ticket.to_argument().context("cannot write the waiter's ticket") {
            Ok(argument) => {
                let volumes = if self.in_host { Vec::new() } else { waiter_call::volumes_on(action, &VOLUMES) };
                let parts = WaiterParts {
                    name: &Role::Waiter.container_name(&order.action.name),
                    image: &order.action.whole.image,
                    argument: &argument,
                    labels: &Role::Waiter.labels(&order.action.name, &order.duty.handoff, &order.action.id),
                    volumes,
                    in_host: self.in_host,
                    needs_network: order.duty.needs_network(),
                };
                prepared.waiter = Some(request(Role::Waiter, waiter_call::waiter(&parts), None));
            }
            Err(failure) => prepared.problems.push(failure),
        }
        prepared
    }

    /// The call that makes the user container.
    fn user(&self, order: &Order<'_>) -> Result<Creation, flags::NotCarried> {
        let name = Role::User.container_name(&order.action.name);
        let labels = Role::User.labels(&order.action.name, &order.duty.handoff, &order.action.id);
        let (action, own) = (&order.action.whole.document, &order.own_image.document);
        flags::user_container(action, own, order.image.as_written(), &name, &labels, &Host)
    }
}

impl Engine for Nerdctl {
    fn about(&self) -> About {
        let whose = if self.in_host { "the host's nerdctl" } else { "nerdctl in the action's namespaces" };
        About {
            described: format!("containerd by {whose}, namespace {}", self.namespace),
            check: CHECK,
            keeps_logs: true,
            names_cgroups: true,
            starts_waiter_early: true,
            place: (
                "environment.NERDCTL_NAMESPACE",
                "name the namespace in which this action runs (the agent's is tinkerbell)",
            ),
        }
    }

    fn look<'a>(&'a self, containers: &'a [&'a str], detail: Detail) -> Answer<'a, Vec<Seen>> {
        Box::pin(async move {
            if let [one] = containers {
                return Ok(self.show(one, detail).await?.into_iter().collect());
            }
            // A call costs a process: one for all, and one for each only if one of them is missing.
            match self.show_all(containers, detail).await {
                Err(refusal) if refusal.is_gone() => {}
                answer => return answer,
            }
            let mut found = Vec::new();
            for container in containers {
                found.extend(self.show(container, detail).await?);
            }
            Ok(found)
        })
    }

    fn list<'a>(&'a self, which: Which<'a>) -> Answer<'a, Vec<String>> {
        Box::pin(async move {
            let mut call = vec!["ps", "--quiet", "--no-trunc"];
            let filter = match which {
                Which::Ours => format!("label={LABEL_ACTION}"),
                Which::MadeBy(handoff) => format!("label={LABEL_HANDOFF}={}", handoff.as_str()),
                Which::Running => String::new(),
            };
            if !filter.is_empty() {
                call.extend(["--all", "--filter", &filter]);
            }
            let listed = self.cli.ask(&call).await.map_err(of_question)?;
            Ok(listed.lines().map(str::to_owned).collect())
        })
    }

    fn image<'a>(&'a self, image: &'a str) -> Answer<'a, Option<Image>> {
        Box::pin(async move {
            // A missing image is an empty answer with rc 0 (nerdctl 2.2.1).
            let found = self.cli.documents(&["image", "inspect", "--mode=native", image]).await;
            Ok(found.map_err(of_question)?.into_iter().next().map(seen::image))
        })
    }

    fn pull<'a>(&'a self, image: &'a Reference, login: Option<&'a Login>, how: Pulling<'a>) -> Answer<'a, ()> {
        Box::pin(async move {
            let (cli, _config) = self.logged_in(image, login)?;
            let name = image.as_written();
            match how {
                Pulling::Find => cli.ask(&["manifest", "inspect", name]).await.map(drop).map_err(of_registry),
                Pulling::Whole(_) => cli.run_without_limit(&["pull", "--quiet", name]).await.map_err(of_registry),
            }
        })
    }

    fn prepare<'a>(&'a self, order: &'a Order<'a>) -> Pin<Box<dyn Future<Output = Prepared> + 'a>> {
        Box::pin(self.build(order))
    }

    fn create<'a>(&'a self, request: &'a Request) -> Answer<'a, Created> {
        Box::pin(async move {
            match self.create_once(request).await {
                Err(Refusal { kind: Kind::NameTaken { by: Some(holder) }, .. })
                    if self.free_name(&request.name, &holder).await =>
                {
                    self.create_once(request).await
                }
                other => other,
            }
        })
    }

    fn complete<'a>(&'a self, request: &'a Request, id: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            let Some((action, own)) = &request.body::<Call>()?.held_against else { return Ok(()) };
            let gone = || Refusal::new(Kind::Gone, "it was removed by somebody");
            let user = self.show(id, Detail::Whole).await?.ok_or_else(gone)?;
            // nerdctl would say so at start only (observed).
            if user.whole.command.is_empty() {
                return Err(Refusal::new(Kind::NoCommand, "the container has nothing to run"));
            }
            Ok(check::nothing_was_lost(action, own, &user.whole.document)?)
        })
    }

    fn start<'a>(&'a self, container: &'a Seen) -> Answer<'a, ()> {
        Box::pin(async move {
            if matches!(container.life, Life::Starting { .. }) {
                self.end_half_started(container).await?;
            }
            // It prints what it has started.
            let said = self.cli.run(&["start", &container.id], "").await.map_err(of_change)?;
            if said.trim().is_empty() {
                return Err(of_change(CliError::Empty { call: "start".into() }));
            }
            Ok(())
        })
    }

    fn wait<'a>(&'a self, container: &'a str, pid: Option<u32>) -> Answer<'a, End> {
        Box::pin(self.open_wait(container, pid))
    }

    fn give_word<'a>(&'a self, waiter: &'a str) -> Answer<'a, ()> {
        // nerdctl's own way, `kill`, ends what starts the waiter again (2.2.1: it counts as stopped by hand).
        let journal = self.folders().join(waiter).join(JOURNAL_FILE);
        let written = OpenOptions::new().append(true).create(true).open(&journal);
        let written = written.and_then(|mut file| file.write_all(format!("{WORD}\n").as_bytes()));
        let failed = |error| format!("cannot write {}: {error}", journal.display());
        let given = written.map_err(|error| Refusal::new(Kind::MayPass(Retry::UntilDeadline), failed(error)));
        Box::pin(async move { given })
    }

    fn output<'a>(&'a self, listen: Listen<'a>) -> Answer<'a, Box<dyn Output>> {
        let id = listen.container;
        let output: Box<dyn Output> = if listen.ours {
            Box::new(LogFile::new(self.folders().join(id).join(format!("{id}-json.log"))))
        } else {
            Box::new(LogCommand::new(self.cli.clone(), id))
        };
        Box::pin(async move { Ok(output) })
    }

    fn remove<'a>(&'a self, container: &'a str, how: Removal) -> Answer<'a, ()> {
        Box::pin(async move {
            let force: &[&str] = if how == Removal::Idle { &[] } else { &["--force"] };
            let call = [&["rm"], force, &["--volumes", container]].concat();
            if how == Removal::Own {
                // Ending our container ends all that is in its cgroup: nerdctl must not be.
                let failed = |error| Refusal::new(Kind::Final, format!("cannot leave the container's cgroup: {error}"));
                namespaces::leave_cgroup().map_err(failed)?;
                if self.cli.run_alone(&call).await.is_ok() {
                    return Ok(());
                }
                // We are still here to read why.
            }
            match self.cli.run(&call, "").await.map_err(of_change) {
                Err(refusal) if !refusal.is_gone() => Err(refusal),
                _ => Ok(()),
            }
        })
    }

    fn retire<'a>(&'a self, container: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            self.cli.run(&["update", "--restart=no", container], "").await.map(drop).map_err(of_question)
        })
    }
}

/// A registry's words, as nerdctl passes them on.
fn of_registry(error: CliError) -> Refusal {
    match error {
        CliError::Refused { message } => refusal_of_pull(message),
        other => of_change(other),
    }
}

//! containerd through nerdctl: the seam's primitives as calls of nerdctl.
//!
//! With NERDCTL_HOST, the default, we run in the host's namespaces from the start, so the action
//! needs no volumes, only `pid: host`. Without it nerdctl runs in our own namespaces, with the
//! volumes that docs/quick-start.md lists.

pub mod check;
mod cli;
pub mod flags;
mod log;
mod network;
mod own_namespaces;
mod prepare;
mod process;
pub mod refusal;
mod registry_access;
pub mod seen;
mod spec;
mod waiter_call;

use std::cell::OnceCell;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use self::cli::{Cli, CliError};
use self::flags::Creation;
use self::log::{LogCommand, LogFile};
use self::own_namespaces::own_program;
use self::prepare::Call;
use self::process::Process;
use self::refusal::{change_refusal, pull_refusal, query_refusal};
use self::registry_access::Access;
use super::platform::Platform;
use super::{
    About, Answer, Created, Detail, Engine, Image, Kind, Life, Listen, NOTICE_LIMIT, Order, Output,
    PendingEnd, Prepared, Pulling, Refusal, Removal, Request, Seen, Which,
};
use crate::error::Failure;
use crate::login::{self, Config, Login};
use crate::machine::namespaces;
use crate::names::{JOURNAL_FILE, LABEL_ACTION, LABEL_HANDOFF, WORD};
use crate::reference::Reference;
use crate::settings::Settings;

/// The pause between two checks whether containerd has noticed that a process ended.
const PAUSE: Duration = Duration::from_millis(100);

const CHECK: &str = "check containerd and nerdctl of the OSIE: one of them is down or unhealthy";

/// Where nerdctl keeps its data about containers, unless a container names another place; for
/// containerd at its usual address (nerdctl, `clientutil.DataStore`).
const CONTAINERS: &str = "/var/lib/nerdctl/1935db59/containers";

/// A nerdctl that was reached.
pub struct Nerdctl {
    cli: Cli,
    access: Access,
    in_host: bool,
    namespace: String,
    /// Where nerdctl has a folder for each container of the namespace, learned from the first
    /// container of ours.
    folders: OnceCell<PathBuf>,
}

impl Nerdctl {
    /// Reaches nerdctl, in the host's namespaces or in our own, as the settings say. `line` is the
    /// kernel's command line.
    ///
    /// # Errors
    /// If nerdctl cannot be used; the failure says what fixes it.
    pub fn reach(settings: &Settings, line: &str) -> Result<Self, Failure> {
        let in_host = settings.nerdctl_host;
        let mut nerdctl = Self::open(in_host, &settings.nerdctl_namespace)?;
        nerdctl.access = Access::new(&settings.proxies, line, in_host);
        if in_host && !Cli::is_installed("nerdctl") {
            return Err(Failure::new(
                "the host has no nerdctl in /usr/local/bin or another usual place",
            )
            .field("environment.CONTAINER_RUNTIME")
            .fix("use an OSIE with nerdctl, such as CaptainOS, or NERDCTL_HOST: \"false\" and the image variant ending in -nerdctl"));
        }
        login::clear_leftovers();
        Ok(nerdctl)
    }

    /// Opens nerdctl for a waiter, whose handoff called [`Nerdctl::reach`].
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
        Ok(Self {
            cli,
            access: Access::default(),
            in_host,
            namespace: namespace.to_owned(),
            folders: OnceCell::new(),
        })
    }

    /// Shows one container.
    async fn inspect_one(&self, container: &str, detail: Detail) -> Result<Option<Seen>, Refusal> {
        match self.inspect_all(&[container], detail).await {
            Ok(mut found) => Ok(found.pop()),
            Err(refusal) if refusal.is_gone() => Ok(None),
            Err(refusal) => Err(refusal),
        }
    }

    /// Shows these containers, all of which must exist.
    async fn inspect_all(&self, containers: &[&str], detail: Detail) -> Result<Vec<Seen>, Refusal> {
        let format: &[&str] =
            if detail == Detail::Life { &["--format", seen::LITTLE] } else { &[] };
        let call = [&["container", "inspect", "--mode=native"], format, containers].concat();
        let documents = self.cli.documents(&call).await.map_err(query_refusal)?;
        if documents.len() != containers.len() {
            return Err(query_refusal(CliError::Empty { call: "container inspect".into() }));
        }
        let show = |document: Value| {
            let seen = seen::container(document, detail)?;
            // The agent's label names its own default, whatever nerdctl.toml says (v0.25.0).
            let ours = seen.folder.as_deref().filter(|_| seen.role.is_some());
            if let Some(parent) = ours.and_then(Path::parent) {
                let _ = self.folders.set(parent.to_owned());
            }
            // Look for the log, not the folder: nerdctl creates the folder anew when it inspects
            // (2.2.1).
            let log =
                seen.folder.as_ref().map(|folder| folder.join(format!("{}-json.log", seen.id)));
            let log_removed = log.is_some_and(|log| !log.exists());
            Ok(Seen { log_removed, ..seen })
        };
        documents.into_iter().map(show).collect()
    }

    fn folders(&self) -> PathBuf {
        self.folders.get().cloned().unwrap_or_else(|| Path::new(CONTAINERS).join(&self.namespace))
    }

    /// Frees a name of ours that was kept by a nerdctl killed halfway, together with its action: no
    /// container has the name, and no running process works on it. Returns true if the name is now
    /// free.
    async fn free_name(&self, name: &str, holder: &str) -> bool {
        // Another run of this action may, at this very moment, have the name and not yet the
        // container.
        let all_are_seen = self.in_host || namespaces::pids_are_the_hosts();
        if !all_are_seen || namespaces::is_an_argument(name) {
            return false;
        }
        if !matches!(self.inspect_one(holder, Detail::Life).await, Ok(None)) {
            return false;
        }
        // nerdctl's store of names has one file per name, which holds the container's ID
        // (pkg/namestore).
        let folders = self.folders();
        let Some(store) = folders.ancestors().nth(2) else { return false };
        let file = store.join("names").join(&self.namespace).join(name);
        let kept = std::fs::read_to_string(&file).is_ok_and(|id| id == holder);
        let freed = kept && std::fs::remove_file(&file).is_ok();
        if freed {
            ::log::warn!(container = holder; "freed the name {name}, left behind by a killed nerdctl");
        }
        freed
    }

    async fn call_create(&self, request: &Request) -> Result<Created, Refusal> {
        let Creation { arguments, input } = &request.body::<Call>()?.creation;
        let call: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let id = self.cli.run(&call, input).await.map_err(change_refusal)?;
        if id.trim().is_empty() {
            return Err(change_refusal(CliError::Empty { call: "create".into() }));
        }
        Ok(Created { id: id.trim().to_owned(), started: call.first() == Some(&"run") })
    }

    /// Ends a process that was created but not started, because its creator died. The container can
    /// then be started anew.
    async fn end_half_started(&self, container: &Seen) -> Result<(), Refusal> {
        let Some(pid) = container.life.pid() else { return Ok(()) };
        ::log::warn!(container = container.id.as_str(); "the container's start was interrupted; starting it again");
        let process = match Process::open(pid, &container.id) {
            Ok(process) => process,
            Err(_) => return Ok(()),
        };
        process.signal(Signal::KILL).map_err(|error| {
            Refusal::passing(format!(
                "cannot end process {pid}, which waits to be started: {error}"
            ))
        })?;
        let end = Instant::now() + NOTICE_LIMIT;
        let _ = timeout(NOTICE_LIMIT, process.ended()).await;
        loop {
            match self.inspect_one(&container.id, Detail::Life).await? {
                Some(seen)
                    if matches!(seen.life, Life::Starting { .. }) && Instant::now() < end =>
                {
                    sleep(PAUSE).await
                }
                Some(seen) if matches!(seen.life, Life::Starting { .. }) => {
                    return Err(Refusal::passing(
                        "containerd has not noticed that the process ended",
                    ));
                }
                _ => return Ok(()),
            }
        }
    }

    /// Opens the wait for a process through a pidfd. If the kernel does not say how it ended, the
    /// caller must ask containerd.
    async fn open_wait(&self, container: &str, pid: Option<u32>) -> Result<PendingEnd, Refusal> {
        let gone = || Refusal::new(Kind::Gone, "its process has ended");
        let life = match pid {
            Some(pid) => Life::Running { pid: Some(pid) },
            None => self.inspect_one(container, Detail::Life).await?.ok_or_else(gone)?.life,
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

    /// Returns nerdctl for a registry, and the configuration with the login. Keep the configuration
    /// as long as the login is needed.
    fn for_registry(
        &self,
        image: &Reference,
        login: Option<&Login>,
    ) -> Result<(Cli, Option<Config>), Refusal> {
        let failed = |error| {
            Refusal::new(Kind::Final, format!("cannot keep the registry's login in /run: {error}"))
        };
        let config = login.map(|login| login.docker_config(image)).transpose().map_err(failed)?;
        Ok((self.cli.for_registry(&self.access, config.as_ref().map(Config::folder)), config))
    }
}

impl Engine for Nerdctl {
    fn about(&self) -> About {
        let whose =
            if self.in_host { "the host's nerdctl" } else { "nerdctl in the action's namespaces" };
        About {
            described: format!("containerd by {whose}, namespace {}", self.namespace),
            check: CHECK,
            keeps_logs: true,
            names_cgroups: true,
            keeps_lives: false,
            starts_waiter_early: true,
            trust: if self.in_host {
                "let the OSIE trust the registry: on CaptainOS by insecure_registries= on the kernel's command line, or by a \
                 hosts.toml in /etc/containerd/certs.d"
            } else {
                "with NERDCTL_HOST false add pid: host, so that the host's certificates and hosts.toml are seen; or add to the \
                 action's volumes: /etc/ssl/certs:/etc/ssl/certs:ro, /etc/containerd/certs.d:/etc/containerd/certs.d:ro"
            },
            place: (
                "environment.NERDCTL_NAMESPACE",
                "name the namespace in which this action runs (the agent's is tinkerbell)",
            ),
        }
    }

    fn inspect<'a>(&'a self, containers: &'a [&'a str], detail: Detail) -> Answer<'a, Vec<Seen>> {
        Box::pin(async move {
            if let [one] = containers {
                return Ok(self.inspect_one(one, detail).await?.into_iter().collect());
            }
            // A call costs a process: one call for all, and one for each only if one of them is
            // missing.
            match self.inspect_all(containers, detail).await {
                Err(refusal) if refusal.is_gone() => {}
                answer => return answer,
            }
            let mut found = Vec::new();
            for container in containers {
                found.extend(self.inspect_one(container, detail).await?);
            }
            Ok(found)
        })
    }

    fn list<'a>(&'a self, which: Which<'a>) -> Answer<'a, Vec<String>> {
        Box::pin(async move {
            let mut call = vec!["ps", "--quiet", "--no-trunc"];
            let filter = match which {
                Which::Ours => format!("label={LABEL_ACTION}"),
                Which::OfHandoff(handoff) => format!("label={LABEL_HANDOFF}={}", handoff.as_str()),
                Which::Running => String::new(),
            };
            if !filter.is_empty() {
                call.extend(["--all", "--filter", &filter]);
            }
            let listed = self.cli.ask(&call).await.map_err(query_refusal)?;
            Ok(listed.lines().map(str::to_owned).collect())
        })
    }

    fn image<'a>(&'a self, image: &'a str) -> Answer<'a, Option<Image>> {
        Box::pin(async move {
            let asked = Reference::parse(image)
                .map_err(|why| Refusal::new(Kind::NotAnImageName, why.to_string()))?;
            // For a missing image the answer is empty, with rc 0 (nerdctl 2.2.1).
            let found = self
                .cli
                .documents(&["image", "inspect", "--mode=native", &asked.normalized()])
                .await;
            Ok(seen::image(&asked, found.map_err(query_refusal)?))
        })
    }

    fn pull<'a>(
        &'a self,
        image: &'a Reference,
        login: Option<&'a Login>,
        how: Pulling<'a>,
    ) -> Answer<'a, Vec<Platform>> {
        Box::pin(async move {
            let (cli, _config) = self.for_registry(image, login)?;
            let name = image.normalized();
            match how {
                Pulling::Find => {
                    let found = cli
                        .documents(&["manifest", "inspect", &name])
                        .await
                        .map_err(pull_refusal)?;
                    Ok(seen::platforms(&found))
                }
                Pulling::Whole(_) => {
                    cli.run_without_limit(&["pull", "--quiet", &name])
                        .await
                        .map_err(pull_refusal)?;
                    Ok(Vec::new())
                }
            }
        })
    }

    fn prepare<'a>(&'a self, order: &'a Order<'a>) -> Pin<Box<dyn Future<Output = Prepared> + 'a>> {
        Box::pin(prepare::both(&self.cli, self.in_host, &self.namespace, order))
    }

    fn create<'a>(&'a self, request: &'a Request) -> Answer<'a, Created> {
        Box::pin(async move {
            match self.call_create(request).await {
                Err(Refusal { kind: Kind::NameTaken { by: Some(holder) }, .. })
                    if self.free_name(&request.name, &holder).await =>
                {
                    self.call_create(request).await
                }
                other => other,
            }
        })
    }

    fn complete<'a>(&'a self, request: &'a Request, id: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            let Some((action, own)) = &request.body::<Call>()?.held_against else { return Ok(()) };
            let gone = || Refusal::new(Kind::Gone, "something else removed it");
            let user = self.inspect_one(id, Detail::Whole).await?.ok_or_else(gone)?;
            // nerdctl would say so only at start (observed).
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
            // nerdctl prints what it has started.
            let said = self.cli.run(&["start", &container.id], "").await.map_err(change_refusal)?;
            if said.trim().is_empty() {
                return Err(change_refusal(CliError::Empty { call: "start".into() }));
            }
            Ok(())
        })
    }

    fn wait<'a>(&'a self, container: &'a str, pid: Option<u32>) -> Answer<'a, PendingEnd> {
        Box::pin(self.open_wait(container, pid))
    }

    fn give_word<'a>(&'a self, waiter: &'a str) -> Answer<'a, ()> {
        // nerdctl's own way, `kill`, stops the waiter from being started again (2.2.1: it counts as
        // stopped by hand).
        let journal = self.folders().join(waiter).join(JOURNAL_FILE);
        let written = OpenOptions::new().append(true).create(true).open(&journal);
        let written = written.and_then(|mut file| file.write_all(format!("{WORD}\n").as_bytes()));
        let failed = |error| format!("cannot write {}: {error}", journal.display());
        let given = written.map_err(|error| Refusal::passing(failed(error)));
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
                // Ending our container ends everything in its cgroup, so nerdctl must not be in it.
                // A process that cannot leave does not see the host's PID 1, and may still remove
                // another container.
                if let Err(error) = namespaces::leave_cgroup() {
                    ::log::debug!(error = error.to_string().as_str(); "cannot leave the container's cgroup");
                } else if self.cli.run_alone(&call).await.is_ok() {
                    return Ok(());
                }
                // We are still running, so we can read why it failed.
            }
            match self.cli.run(&call, "").await.map_err(change_refusal) {
                Err(refusal) if !refusal.is_gone() => Err(refusal),
                _ => Ok(()),
            }
        })
    }

    fn retire<'a>(&'a self, container: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            self.cli
                .run(&["update", "--restart=no", container], "")
                .await
                .map(drop)
                .map_err(query_refusal)
        })
    }
}

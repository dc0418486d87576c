//! containerd through nerdctl: the seam's questions as calls of nerdctl.
//!
//! With NERDCTL_HOST, the default, we run in the host's namespaces from the start, so the action needs
//! no volumes, only `pid: host`. Without it nerdctl runs in our own namespaces, on the volumes that
//! the README lists.

pub mod check;
mod cli;
pub mod copy;
mod identity;

use std::cell::RefCell;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::Value;
use tokio::net::unix::pipe::Receiver;
use tokio::time::{Instant, interval, sleep, sleep_until, timeout};

use self::cli::{Cli, CliError};
use self::copy::Creation;
use super::{
    ARMING_LIMIT, Armed, Discarded, Earlier, Engine, Made, Outcome, Planned, Standing, Verdict, failures, json,
};
use crate::clock::Moment;
use crate::error::{Because, Failure};
use crate::host;
use crate::logging::{self, ARMED};
use crate::login::{self, Config, Login};
use crate::names::{HandoffId, LABEL_ACTION, LABEL_HANDOFF, LABEL_ROLE, Role, WAITER_PROGRAM};
use crate::reference::Reference;
use crate::retry::{Stumble, Tries, Worth, patiently};
use crate::ticket::{EngineTicket, Ticket};

/// How often a pull's progress is logged.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);
/// How long the agent may take to delete the container of an action that succeeded; it needs
/// milliseconds for it (Tink Agent v0.25.0). One that failed it keeps.
const DELETION_LIMIT: Duration = Duration::from_secs(30);
/// How long a nerdctl that does not answer at first is asked again: longer than one question may take.
const REACH_LIMIT: Duration = Duration::from_secs(20);
/// How long the handoff asks again where nerdctl or containerd stumble.
const HANDOFF_PATIENCE: Duration = Duration::from_secs(60);
/// How long the waiter does, which has more time.
const WAITER_PATIENCE: Duration = Duration::from_secs(300);
/// Between two questions of which each costs a process.
const PAUSE: Duration = Duration::from_millis(100);
/// How long containerd may take to say how a process ended.
const END_LIMIT: Duration = Duration::from_secs(10);
/// How long nerdctl's logger may take to write what an ended container said last.
const LOG_LIMIT: Duration = Duration::from_secs(2);
/// How much of a log is read at most, in bytes, from its end.
const LOG_END: u64 = 256 * 1024;
/// Between two looks at the waiter's log.
const LOOK_EVERY: Duration = Duration::from_millis(5);

const LOOK_AT_ENGINE: &str = "look at containerd and nerdctl of the OSIE";

/// What nerdctl needs in our own namespaces, at the places where the host has it.
const VOLUMES: [&str; 5] =
    ["/run/containerd/containerd.sock", "/var/lib/containerd", "/var/lib/nerdctl", "/opt/cni/bin", "/etc/cni/net.d"];
/// nerdctl in the image variant that bundles it; CaptainOS has it at the same place, which its hooks
/// need: they are run on the host (nerdctl 2.2.1).
const BUNDLED: &str = "/usr/local/bin/nerdctl";
/// The host's nerdctl seen from a container with the host's PIDs, and from the host itself.
const HOSTS: &str = "/proc/1/root/usr/local/bin/nerdctl";

/// A nerdctl that answered.
pub struct Nerdctl {
    cli: Cli,
    host: bool,
    namespace: String,
    /// No container of ours was there when nerdctl was reached, so no earlier attempt left one.
    none_of_ours: bool,
    /// The containers to which our own traces lead, as they were then.
    traced: Vec<Value>,
}

/// The action container and our own image, as inspected.
pub struct Action {
    container: Value,
    name: String,
    own_image: Value,
    proof: &'static str,
}

/// The machine as this process sees it, which is as nerdctl sees it.
struct Machine;

impl copy::Host for Machine {
    fn block_device(&self, major: u64, minor: u64) -> Option<String> {
        host::block_device(major, minor)
    }
    fn propagates(&self, path: &str) -> bool {
        host::propagates(path)
    }
}

/// The action's process, whose end the waiter awaits.
pub struct Pending {
    action: String,
    /// `None` where it had ended before this life of the waiter.
    process: Option<Receiver>,
}

impl Nerdctl {
    /// nerdctl, in the host's namespaces (`host`) or in our own, if it answers.
    ///
    /// # Errors
    /// Why nerdctl cannot be used, with what mends it.
    pub async fn reach(host: bool, namespace: &str) -> Result<Self, Failure> {
        let Self { cli, .. } = Self::known(host, namespace)?;
        login::clear_leftovers();
        let cli = cli.with_patience(REACH_LIMIT);
        let nerdctl = Self { cli, host, namespace: namespace.to_owned(), none_of_ours: false, traced: Vec::new() };
        // Each costs a process, and there are two processors at least.
        let (ours, traced) = tokio::join!(nerdctl.ids_labelled(LABEL_ACTION), identity::traced(&nerdctl.cli));
        match ours {
            Ok(ours) => {
                let cli = nerdctl.cli.with_patience(HANDOFF_PATIENCE);
                Ok(Self { cli, none_of_ours: ours.is_empty(), traced, ..nerdctl })
            }
            Err(CliError::Run(error)) if error.kind() == std::io::ErrorKind::NotFound => {
                let missing = Failure::new("the host has no nerdctl in /usr/local/bin or another usual place");
                let missing = missing.field("environment.CONTAINER_RUNTIME");
                Err(missing.fix("use an OSIE with nerdctl, such as CaptainOS").cause(error))
            }
            Err(error) => Err(Failure::new("nerdctl does not answer").fix(LOOK_AT_ENGINE).cause(error)),
        }
    }

    /// As [`Nerdctl::reach`], without asking whether it answers.
    ///
    /// # Errors
    /// Where the host cannot be entered, or what nerdctl needs in our own namespaces is missing.
    pub fn known(host: bool, namespace: &str) -> Result<Self, Failure> {
        let program = if host {
            host::enter()?;
            "nerdctl"
        } else {
            own_program()?
        };
        let cli = Cli::new(program, namespace, WAITER_PATIENCE);
        Ok(Self { cli, host, namespace: namespace.to_owned(), none_of_ours: false, traced: Vec::new() })
    }

    /// The containers, running or not, with this label: a key, or a key and its value.
    async fn ids_labelled(&self, label: &str) -> Result<Vec<String>, CliError> {
        self.cli.list(&["--all", "--filter", &format!("label={label}")]).await
    }

    /// Fails where the action has published ports that its document does not show: nerdctl sees them only
    /// where it sees the action's process.
    async fn ports_are_known(&self, action: &Action) -> Result<(), Failure> {
        let container = &action.container;
        if !copy::made_by_nerdctl(container) || !container["Process"]["NetNS"].is_null() {
            return Ok(());
        }
        let id = container["ID"].as_str().unwrap_or_default();
        let ports = self.cli.ask(&["port", id]).await.because("cannot ask for the action's published ports")?;
        if ports.trim().is_empty() {
            return Ok(());
        }
        Err(Failure::new(format!("cannot publish the action's ports again: {}", ports.trim().replace('\n', ", ")))
            .fix("leave them out of the action: two containers cannot have the same port"))
    }

    /// Removes a container with its anonymous volumes; one that is gone is fine (nerdctl: rc 0).
    async fn remove(&self, id: &str) -> Result<(), CliError> {
        self.cli.ask(&["rm", "--force", "--volumes", id]).await.map(drop)
    }

    /// Creates a container exactly once. Where the answer is lost, nerdctl may have made it: then one with
    /// this handoff's label and this role is there.
    async fn create(
        &self,
        action: &Action,
        call: &[&str],
        input: &str,
        (role, handoff): (Role, &HandoffId),
    ) -> Result<Made, CliError> {
        let mut tries = Tries::within(HANDOFF_PATIENCE);
        let mut freed = false;
        loop {
            let error = match self.cli.run_with_input(call, input).await {
                Ok(id) if !id.trim().is_empty() => {
                    return Ok(Made { id: id.trim().to_owned(), started: call.starts_with(&["run"]) });
                }
                Ok(_) => CliError::Empty { call: "create".into() },
                Err(error) => error,
            };
            if !freed && self.free_name(action, &role.container_name(&action.name), &error).await {
                freed = true;
                continue;
            }
            // Of a second try nerdctl may say that the name is taken: by the first one's.
            let taken = tries.failed() > 0 && error.to_string().contains("already used");
            if error.worth() == Worth::Nothing && !taken {
                return Err(error);
            }
            let (of_handoff, of_role) = (
                format!("label={LABEL_HANDOFF}={}", handoff.as_str()),
                format!("label={LABEL_ROLE}={}", role.as_str()),
            );
            let made = self.cli.list(&["--all", "--filter", &of_handoff, "--filter", &of_role]).await?;
            if let Some(id) = made.into_iter().next() {
                return Ok(Made { id, started: false });
            }
            if !tries.again("creating a container", &error).await {
                return Err(error);
            }
        }
    }

    /// Frees a name of ours that a nerdctl kept which was killed half-way, with the action that it worked for: no
    /// container has it, and no process that runs is about it. True where it is free now.
    async fn free_name(&self, action: &Action, name: &str, error: &CliError) -> bool {
        let error = error.to_string();
        let holder = error.split_once("is already used by ID \"").and_then(|(_, rest)| rest.split_once('"'));
        let Some((holder, _)) = holder else { return false };
        // Another run of this action, at this very moment, has the name before it has the container.
        let all_are_seen = self.host || host::pids_are_the_hosts();
        if !all_are_seen || host::is_an_argument(name) {
            return false;
        }
        if !self.cli.inspect(holder).await.is_err_and(|error| error.is_missing()) {
            return false;
        }
        // nerdctl's store of names has a file for each, which holds the container's ID (pkg/namestore).
        let state = Path::new(action.container["Labels"]["nerdctl/state-dir"].as_str().unwrap_or_default());
        let Some(store) = state.ancestors().nth(3) else { return false };
        let file = store.join("names").join(&self.namespace).join(name);
        let kept = std::fs::read_to_string(&file).is_ok_and(|id| id == holder);
        let freed = kept && std::fs::remove_file(&file).is_ok();
        if freed {
            tracing::warn!(container = holder, "freed the name {name}, which a nerdctl that was killed had kept");
        }
        freed
    }

    /// Starts a container exactly once. Where the answer is lost, it may have been started: only one that
    /// never had a process is started again.
    async fn start_once(&self, id: &str, patience: Duration) -> Result<(), CliError> {
        let mut tries = Tries::within(patience);
        loop {
            let error = match self.cli.run(&["start", id]).await {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            if !self.cli.inspect(id).await?["Process"].is_null() {
                return Ok(());
            }
            if !tries.again("starting a container", &error).await {
                return Err(error);
            }
        }
    }

    /// nerdctl with the login, and the configuration in which that is, as long as it is needed.
    fn logged_in(&self, image: &Reference, login: Option<&Login>) -> Result<(Cli, Option<Config>), Failure> {
        let Some(login) = login else { return Ok((self.cli.clone(), None)) };
        let config = login.docker_config(image).because("cannot keep the registry's login in /run for the pull")?;
        Ok((self.cli.with_config(config.folder()), Some(config)))
    }

    /// The call that makes the user container.
    fn user_container(&self, action: &Action, image: &Reference, handoff: &HandoffId) -> Result<Creation, Failure> {
        let name = Role::User.container_name(&action.name);
        let labels = Role::User.labels(&action.name, handoff);
        copy::user_container(&action.container, &action.own_image, image.as_written(), &name, &labels, &Machine)
            .map_err(refused)
    }

    /// Where nerdctl writes the log of a container of ours: next to the action's.
    fn log_of(&self, action: &Value, id: &str) -> PathBuf {
        let state = action["Labels"]["nerdctl/state-dir"].as_str().map(PathBuf::from);
        let fallback = || format!("/var/lib/nerdctl/1935db59/containers/{}/{id}", self.namespace).into();
        let folder = state.map_or_else(fallback, |state| state.with_file_name(id));
        folder.join(format!("{id}-json.log"))
    }
}

/// The action has something that cannot be carried over.
fn refused(refused: copy::Refused) -> Failure {
    Failure::new("cannot give the user container everything that the action has")
        .fix("leave it out of the action, or use an OSIE with Docker")
        .cause(refused)
}

impl Engine for Nerdctl {
    type Action = Action;
    type Pending = Pending;
    type Output = ();

    async fn identify(&self, handoff: &HandoffId) -> Result<Action, Failure> {
        let (container, proof) = identity::prove(&self.cli, &self.traced, handoff, &self.namespace).await?;
        let image = container["Image"].as_str().unwrap_or_default();
        let own_image = self.cli.document(&["image", "inspect", "--mode=native", image]).await;
        let own_image = own_image
            .because("cannot inspect waitdaemon's own image")
            .map_err(|failure| failure.fix(LOOK_AT_ENGINE))?;
        let id = container["ID"].as_str().unwrap_or_default();
        let name = container["Labels"]["nerdctl/name"].as_str().unwrap_or(id.get(..12).unwrap_or(id)).to_owned();
        Ok(Action { name, own_image, container, proof })
    }

    fn described(&self) -> String {
        let whose = if self.host { "the host's nerdctl" } else { "nerdctl in the action's namespaces" };
        format!("containerd by {whose}, namespace {}", self.namespace)
    }

    fn keeps_logs(&self) -> bool {
        true
    }

    fn proof(&self, action: &Action) -> &'static str {
        action.proof
    }

    fn action_names<'a>(&self, action: &'a Action) -> (&'a str, &'a str) {
        (action.container["ID"].as_str().unwrap_or_default(), &action.name)
    }

    fn has_terminal(&self, action: &Action) -> bool {
        action.container["Spec"]["process"]["terminal"] == true
    }

    fn ticket(&self, action: &Action) -> EngineTicket {
        let pid = action.container["Process"]["Pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
        EngineTicket::Nerdctl {
            host: self.host,
            namespace: self.namespace.clone(),
            action_pid: pid.unwrap_or_default(),
        }
    }

    async fn pull(&self, image: &Reference, login: Option<&Login>, limit: Duration) -> Result<(), Failure> {
        let name = image.as_written();
        let (cli, _config) = self.logged_in(image, login)?;
        let arguments = ["pull", "--quiet", name];
        let stumble = RefCell::new(None);
        let pull = patiently(limit, "pulling the image", || async {
            let pulled = cli.run_within(limit, &arguments).await.map(drop).map_err(PullFailed);
            pulled.inspect_err(|error| drop(stumble.replace(Some(error.to_string()))))
        });
        let pull = timeout(limit, pull);
        tokio::pin!(pull);
        let mut progress = interval(PROGRESS_EVERY);
        progress.tick().await;
        let begin = Instant::now();
        let pulled = loop {
            tokio::select! {
                pulled = &mut pull => break pulled,
                _ = progress.tick() => {
                    tracing::info!(image = name, seconds = begin.elapsed().as_secs(), "still pulling");
                }
            }
        };
        match pulled {
            Ok(Ok(())) => Ok(()),
            Err(_) => Err(failures::pull_too_long(image, limit, stumble.take())),
            Ok(Err(PullFailed(CliError::Late { .. }))) => Err(failures::pull_too_long(image, limit, None)),
            Ok(Err(PullFailed(error))) => Err(failures::pull_failed(image).cause(error)),
        }
    }

    async fn image(&self, image: &Reference) -> Result<Option<Value>, Failure> {
        // A missing image is an empty answer with rc 0 (nerdctl 2.2.1).
        let found = self.cli.documents(&["image", "inspect", "--mode=native", image.as_written()]).await;
        let first = found.unwrap_or_default().into_iter().next();
        Ok(first.map(|mut found| found["ImageConfig"]["config"].take()))
    }

    async fn find_in_registry(&self, image: &Reference, login: Option<&Login>) -> Result<(), Failure> {
        let (cli, _config) = self.logged_in(image, login)?;
        let asked = cli.ask(&["manifest", "inspect", image.as_written()]).await;
        asked.map(drop).map_err(|error| failures::pull_failed(image).cause(error))
    }

    async fn standing(&self, container: &str, action_name: &str) -> Result<Standing, Failure> {
        match self.cli.inspect(container).await {
            Ok(found) if found["Labels"][LABEL_ACTION] != action_name => Ok(Standing::Foreign),
            Ok(found) if found["Process"]["Status"]["Status"] == "running" => Ok(Standing::Running),
            Ok(_) => Ok(Standing::Pending),
            Err(error) if error.is_missing() => Ok(Standing::Free),
            Err(error) => Err(error).because(format!("cannot inspect {container}")),
        }
    }

    async fn plan(&self, action: &Action, image: &Reference, ticket: &Ticket) -> Planned {
        let mut planned = Planned::default();
        let arguments = |made: Creation| Value::from(made.arguments);
        match self.user_container(action, image, &ticket.handoff) {
            Ok(made) => {
                planned.words = made.words().iter().map(|word| word.as_str().into()).collect();
                let own = action.container["Image"].as_str().unwrap_or_default();
                let same = copy::user_container(&action.container, &Value::Null, own, &action.name, &[], &Machine);
                let same = same.map(arguments).unwrap_or_default();
                json::differences("nerdctl create", &same, &arguments(made), &mut planned.differences);
            }
            Err(failure) => planned.problems.push(failure),
        }
        let restart = &action.container["Labels"]["containerd.io/restart.policy"];
        json::differences("--restart", restart, &Value::Null, &mut planned.differences);
        planned.problems.extend(self.ports_are_known(action).await.err());
        planned
    }

    async fn clear_earlier(&self, action: &Action) -> Result<Earlier, Failure> {
        let failed = |error: CliError| {
            Failure::new("cannot clear what an earlier attempt of this action left").fix(LOOK_AT_ENGINE).cause(error)
        };
        if self.none_of_ours {
            return Ok(Earlier::Cleared);
        }
        let found = self.ids_labelled(&format!("{LABEL_ACTION}={}", action.name)).await.map_err(failed)?;
        let mut users = Vec::new();
        for id in found {
            let container = match self.cli.inspect(&id).await {
                Ok(container) => container,
                Err(error) if error.is_missing() => continue,
                Err(error) => return Err(failed(error)),
            };
            if container["Labels"][LABEL_ROLE] == Role::User.as_str() {
                if container["Process"]["Status"]["Status"] == "running" {
                    return Ok(Earlier::Running(id));
                }
                users.push(id);
            } else {
                tracing::warn!(container = id, "removing the waiter of an earlier attempt of this action");
                self.remove(&id).await.map_err(failed)?;
            }
        }
        for id in users {
            let container = self.cli.inspect(&id).await.map_err(failed)?;
            if container["Process"]["Status"]["Status"] == "running" {
                return Ok(Earlier::Running(id));
            }
            tracing::warn!(container = id, "removing the user container of an earlier attempt of this action");
            self.remove(&id).await.map_err(failed)?;
        }
        Ok(Earlier::Cleared)
    }

    async fn create_user(&self, action: &Action, image: &Reference, handoff: &HandoffId) -> Result<(), Failure> {
        let name = Role::User.container_name(&action.name);
        self.ports_are_known(action).await?;
        let creation = self.user_container(action, image, handoff)?;
        let mut call = vec!["create"];
        call.extend(creation.arguments.iter().map(String::as_str));
        let failed = |error| creation_failed("the user container", &name, error);
        let made = self.create(action, &call, &creation.input, (Role::User, handoff)).await.map_err(failed)?;
        let made = self.cli.inspect(&made.id).await.because(format!("cannot inspect {name}"))?;
        // nerdctl would say so at start only (observed).
        if made["Spec"]["process"]["args"].as_array().is_none_or(Vec::is_empty) {
            return Err(failures::no_command());
        }
        check::nothing_was_lost(&action.container, &action.own_image, &made).map_err(refused)?;
        tracing::info!(container = name, "user container created");
        Ok(())
    }

    async fn create_waiter(&self, action: &Action, ticket: &Ticket) -> Result<Made, Failure> {
        let name = Role::Waiter.container_name(&action.name);
        let labels = Role::Waiter.labels(&action.name, &ticket.handoff).map(|(key, value)| format!("{key}={value}"));
        let argument = ticket.to_argument().because("cannot write the waiter's ticket")?;
        let image = action.container["Image"].as_str().unwrap_or_default();
        let [role, of_action, of_handoff] = &labels;
        // It awaits the user container, so it can be started at once, which costs a process less.
        let mut call = vec![
            "run",
            "--detach",
            "--name",
            &name,
            "--label",
            role,
            "--label",
            of_action,
            "--label",
            of_handoff,
            // What entering the host's namespaces takes (setns(2), ptrace(2) for /proc/1), and no more.
            "--cap-drop",
            "ALL",
            "--cap-add",
            "SYS_ADMIN",
            "--cap-add",
            "SYS_CHROOT",
            "--cap-add",
            "SYS_PTRACE",
            "--security-opt",
            "apparmor=unconfined",
            "--security-opt",
            "no-new-privileges",
            "--pid",
            "host",
            "--network",
            // In the host's namespaces it has the host's network anyway.
            if ticket.needs_network() && !self.host { "host" } else { "none" },
            "--cgroupns",
            "host",
            "--log-driver",
            "json-file",
            "--pull",
            "never",
            // Killed it is started again and takes up where it was; where it fails it keeps that from happening.
            "--restart",
            "on-failure:3",
            "--entrypoint",
            WAITER_PROGRAM,
        ];
        let volumes = if self.host { Vec::new() } else { copy::volumes_on(&action.container, &VOLUMES) };
        if self.host {
            call.push("--read-only");
        }
        for volume in &volumes {
            call.extend(["--volume", volume]);
        }
        call.extend([image, "--", &argument]);
        let created = self.create(action, &call, "", (Role::Waiter, &ticket.handoff)).await;
        created.map_err(|error| creation_failed("the waiter", &name, error))
    }

    async fn start_waiter(&self, action: &Action, waiter: &Made, handoff: &HandoffId) -> Result<(), Failure> {
        let Made { id: waiter, started } = waiter;
        if !started {
            let started = self.start_once(waiter, HANDOFF_PATIENCE).await;
            started.map_err(|error| Failure::new("cannot start the waiter").fix(LOOK_AT_ENGINE).cause(error))?;
        }
        let log = self.log_of(&action.container, waiter);
        let armed = async {
            let mut ask_at = Instant::now() + Duration::from_secs(1);
            loop {
                let said = logged(&log);
                if logging::announces(&said, ARMED, handoff) {
                    return Ok(());
                }
                // The log tells nothing of a waiter that died without a word.
                if Instant::now() >= ask_at {
                    ask_at += Duration::from_secs(1);
                    let container = self.cli.inspect(waiter).await;
                    if container.is_ok_and(|container| container["Process"]["Status"]["Status"] != "running") {
                        return Err(Failure::new("the waiter ended before it was armed")
                            .fix("see what it said")
                            .cause(said));
                    }
                }
                sleep(LOOK_EVERY).await;
            }
        };
        timeout(ARMING_LIMIT, armed).await.unwrap_or_else(|_| Err(failures::not_armed().fix(LOOK_AT_ENGINE)))
    }

    async fn remove_made_by(&self, handoff: &HandoffId) -> Result<(), Failure> {
        let failed = "cannot remove what this handoff made";
        let made = self.ids_labelled(&format!("{LABEL_HANDOFF}={}", handoff.as_str())).await.because(failed)?;
        let mut call = vec!["rm", "--force", "--volumes"];
        call.extend(made.iter().map(String::as_str));
        if made.is_empty() {
            return Ok(());
        }
        // The waiter may be the caller: nerdctl must outlive it.
        let _ = host::leave_cgroup();
        match self.cli.run_alone(&call).await {
            Ok(()) => Ok(()),
            Err(_) => self.cli.ask(&call).await.map(drop).because(failed),
        }
    }

    async fn arm(&self, ticket: &Ticket) -> Result<Armed<Pending>, Failure> {
        let EngineTicket::Nerdctl { action_pid, .. } = ticket.engine else {
            return Err(Failure::new("the ticket is another engine's"));
        };
        let names = [Role::Waiter, Role::User].map(|role| role.container_name(&ticket.action_name));
        let process = process_of(action_pid, &ticket.action_id);
        let found = loop {
            let found = self.cli.states([&names[0], &names[1]]).await;
            match (&found, &process) {
                // The action creates the user container meanwhile; once it has ended nobody does.
                (Err(error), Ok(action)) if error.is_missing() => {
                    if timeout(PAUSE, action.readable()).await.is_ok() {
                        break found;
                    }
                }
                _ => break found,
            }
        };
        let [waiter, user] = found.because(format!("cannot inspect {} and {}", names[0], names[1]))?;
        for (document, name) in [&waiter, &user].into_iter().zip(&names) {
            if document["Labels"][LABEL_HANDOFF] != ticket.handoff.as_str() {
                return Err(Failure::new(format!("the container {name} is not this handoff's")));
            }
        }
        let id = |document: &Value| document["ID"].as_str().unwrap_or_default().to_owned();
        // In an earlier life, which was killed, this waiter was armed: then the action was there.
        let said = || logged(&self.log_of(&waiter, &id(&waiter)));
        let process = match process {
            Ok(process) => Some(process),
            Err(_) if logging::announces(&said(), ARMED, &ticket.handoff) => None,
            Err(error) => return Err(error).because("cannot watch the action's process"),
        };
        let pending = Pending { action: ticket.action_id.clone(), process };
        Ok(Armed { waiter: id(&waiter), user: id(&user), pending, started: !user["Process"].is_null() })
    }

    async fn verdict(&self, pending: Pending) -> (Verdict, Moment) {
        if let Some(process) = pending.process
            && let Err(error) = process.readable().await
        {
            return (Verdict::Unknown(error.to_string()), Moment::now());
        }
        let ended = Moment::now();
        (self.verdict_on(&pending.action).await, ended)
    }

    async fn listen(&self, _: &str, _: bool) -> Result<(), Failure> {
        // nerdctl keeps the output; it is read when it is wanted.
        Ok(())
    }

    async fn start(&self, user: &str) -> Result<(), Failure> {
        self.start_once(user, WAITER_PATIENCE).await.map_err(|error| {
            let failure = Failure::new("cannot start the user container");
            let of_command = error.to_string().contains("exec: \"");
            let failure = if of_command {
                failure.field("command").fix("check that it exists in IMAGE and may be executed; the container is kept")
            } else {
                failure.fix("nerdctl's message names what could not be set up; the container is kept")
            };
            failure.cause(error)
        })
    }

    async fn watch(&self, user: &str, _: Option<()>, limit: Duration) -> Outcome {
        let over = Instant::now() + limit;
        let pid = match self.cli.inspect(user).await {
            Ok(document) => document["Process"]["Pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()),
            Err(error) if error.is_missing() => return Outcome::Removed,
            Err(error) => return Outcome::Lost(error.to_string()),
        };
        // Where the process cannot be watched it has ended, and the document below says how.
        if let Some(process) = pid.and_then(|pid| process_of(pid, user).ok()) {
            tokio::select! {
                _ = process.readable() => {}
                () = sleep_until(over) => return Outcome::Running,
            }
        }
        let look_until = over.max(Instant::now() + END_LIMIT);
        loop {
            let document = match self.cli.inspect(user).await {
                Ok(document) => document,
                Err(error) if error.is_missing() => return Outcome::Removed,
                Err(error) => return Outcome::Lost(error.to_string()),
            };
            let status = &document["Process"]["Status"];
            match (status["Status"].as_str(), status["ExitStatus"].as_i64()) {
                (Some("stopped"), Some(code)) => {
                    let log = self.log_of(&document, user);
                    let _ = timeout(LOG_LIMIT, written(&log)).await;
                    return Outcome::Exited { code, note: String::new(), last_lines: last_lines(&log) };
                }
                (Some("running"), _) if Instant::now() >= over => return Outcome::Running,
                // One that is being deleted has no code; it is missing soon.
                _ if Instant::now() >= look_until => {
                    return Outcome::Lost(format!("containerd does not say how it ended: {status}"));
                }
                _ => sleep(PAUSE).await,
            }
        }
    }

    async fn discard(&self, user: &str) -> Result<Discarded, Failure> {
        let failed = "cannot remove the user container, which shall not run";
        match self.cli.inspect(user).await {
            Err(error) if error.is_missing() => Ok(Discarded::Removed),
            Err(error) => Err(error).because(failed),
            Ok(document) if !document["Process"].is_null() => Ok(Discarded::Started),
            Ok(_) => self.remove(user).await.because(failed).map(|()| Discarded::Removed),
        }
    }

    async fn remove_ended(&self, container: &str) -> Result<(), Failure> {
        self.remove(container).await.because("cannot remove the ended container")
    }

    async fn retire(&self, waiter: &str) -> Result<(), Failure> {
        let retired = self.cli.ask(&["update", "--restart=no", waiter]).await;
        retired.map(drop).because("cannot keep containerd from starting the waiter again")
    }

    async fn remove_self(&self, waiter: &str) -> Result<(), Failure> {
        let failed = "cannot remove the waiter's own container";
        // Ending our container ends all that is in its cgroup: nerdctl must not be.
        host::leave_cgroup().because(failed)?;
        match self.cli.run_alone(&["rm", "--force", "--volumes", waiter]).await {
            Ok(()) => Ok(()),
            // We are still here to read why.
            Err(_) => self.remove(waiter).await.because(failed),
        }
    }
}

impl Nerdctl {
    /// How the action ended whose process is gone. The agent deletes the container of an action that it reports as
    /// succeeded, and keeps any other; its exit code says less: an agent that lost containerd meanwhile reports
    /// FAILED whatever it was (seen with containerd killed). A container that somebody ran by hand keeps its exit
    /// code, and nobody reports it.
    async fn verdict_on(&self, action: &str) -> Verdict {
        let ended = Instant::now();
        loop {
            let document = match self.cli.inspect(action).await {
                Err(error) if error.is_missing() => return Verdict::Succeeded,
                // nerdctl stumbles over a container that is deleted while it looks at it.
                Err(error) if ended.elapsed() < DELETION_LIMIT => {
                    tracing::debug!(error = %error, "cannot inspect the action container, looking again");
                    sleep(PAUSE).await;
                    continue;
                }
                Err(error) => return Verdict::Unknown(error.to_string()),
                Ok(document) => document,
            };
            let status = &document["Process"]["Status"];
            if status["Status"] == "stopped" {
                match status["ExitStatus"].as_i64() {
                    Some(0) if copy::made_by_nerdctl(&document) => return Verdict::Succeeded,
                    Some(0) => {}
                    code => return Verdict::Failed(format!("exit code {}", code.unwrap_or(-1))),
                }
            }
            if ended.elapsed() > DELETION_LIMIT {
                return Verdict::Failed("the agent keeps its container, as it does with an action that failed".into());
            }
            sleep(PAUSE).await;
        }
    }
}

/// The nerdctl to run in our own namespaces, once what it needs is there.
fn own_program() -> Result<&'static str, Failure> {
    let missing: Vec<&str> = VOLUMES.into_iter().filter(|path| !Path::new(path).exists()).collect();
    if !missing.is_empty() {
        let what = format!("with NERDCTL_HOST false, nerdctl lacks these volumes: {}", missing.join(", "));
        let lines: Vec<String> = missing.iter().map(|path| format!("{path}:{path}")).collect();
        let fix = format!("add to the action's volumes: {}; or leave NERDCTL_HOST out", lines.join(", "));
        return Err(Failure::new(what).field("volumes").fix(fix));
    }
    let there = |path: &&str| Path::new(path).exists();
    [BUNDLED, HOSTS].into_iter().find(there).ok_or_else(|| {
        Failure::new("with NERDCTL_HOST false there is no nerdctl: this image has none and the host's is not seen")
            .field("image")
            .fix("use the image variant that bundles nerdctl (tag ending in -nerdctl), add pid: host, or leave NERDCTL_HOST out")
    })
}

/// Watches a process that is in the cgroup of this container; the check guards against a PID that
/// has been given to another process.
fn process_of(pid: u32, container: &str) -> std::io::Result<Receiver> {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid_of = raw.ok_or_else(|| std::io::Error::other("the engine gave no PID"))?;
    let process = pidfd_open(pid_of, PidfdFlags::NONBLOCK)?;
    let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    if !cgroup.contains(container) {
        return Err(std::io::Error::other(format!("process {pid} is not in the container's cgroup")));
    }
    // tokio's one safe way to wait for any descriptor: a pidfd becomes readable when its process ends
    // (pidfd_open(2)), and nothing is ever read from it.
    Receiver::from_owned_fd_unchecked(process)
}

/// The end of what a container has logged so far, both streams in their order: nerdctl's json-file has one document a
/// line. Nothing where the container has another log driver.
fn logged(path: &Path) -> String {
    let text = end_of(path).unwrap_or_default();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter_map(|line| line["log"].as_str().map(str::to_owned)).collect()
}

/// The last lines that a container logged, oldest first.
fn last_lines(log: &Path) -> Vec<String> {
    let mut tail = super::tail::Tail::default();
    tail.feed(logged(log).as_bytes());
    tail.into_lines()
}

/// The last [`LOG_END`] bytes of a file. Its first line may be cut.
fn end_of(path: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_END)))?;
    let mut bytes = Vec::new();
    file.take(LOG_END).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Waits until nerdctl's logger has written all of an ended container's output: it locks a file beside the log for as
/// long as it lives (nerdctl 2.2.1, pkg/logging; its own `logs --follow` waits for the same).
async fn written(log: &Path) {
    let lock = std::fs::File::open(log.with_file_name("logger-lock"));
    while lock.as_ref().is_ok_and(|lock| lock.try_lock_shared().is_err()) {
        sleep(LOOK_EVERY).await;
    }
}

/// Why a pull failed, where the registry's words count too.
struct PullFailed(CliError);

impl std::fmt::Display for PullFailed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl Stumble for PullFailed {
    fn worth(&self) -> Worth {
        match &self.0 {
            CliError::Refused { message } => failures::worth_of_pull(message),
            CliError::Late { .. } => Worth::Nothing,
            other => other.worth(),
        }
    }
}

/// Why a container could not be created: nerdctl's own word, and what to do.
fn creation_failed(what: &str, name: &str, error: CliError) -> Failure {
    let failure = Failure::new(format!("cannot create {what} {name}"));
    let failure = match &error {
        CliError::Refused { message } if message.contains("already used") => failure.fix(failures::NAME_IS_TAKEN),
        CliError::Refused { message } => failures::of_setting(failure, message),
        _ => failure.fix(LOOK_AT_ENGINE),
    };
    failure.cause(error)
}

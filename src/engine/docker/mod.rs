//! Docker Engine: the seam's questions as requests to its API.

pub mod api;
pub mod copy;
mod identity;
pub mod pull;
pub mod stream;

use std::cell::RefCell;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use self::api::{Api, ApiError, Stream, part};
use self::stream::Demux;
use super::json::{self, list};
use super::tail::Tail;
use super::{ARMING_LIMIT, Armed, Discarded, Earlier, Engine, Made, Outcome, Planned, Standing, Verdict, failures};
use crate::clock::Moment;
use crate::error::{Because, Failure};
use crate::host;
use crate::logging::{self, ARMED};
use crate::login::{Login, is_of_login};
use crate::names::{HandoffId, LABEL_ACTION, LABEL_HANDOFF, LABEL_ROLE, Role, WAITER_PROGRAM};
use crate::reference::Reference;
use crate::retry::{Stumble, Tries, Worth, patiently};
use crate::settings::DockerHost;
use crate::ticket::{EngineTicket, Ticket};

/// How often a pull's progress is logged.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);
/// How long the handoff asks again where the engine stumbles.
const HANDOFF_PATIENCE: Duration = Duration::from_secs(60);
/// How long the waiter does, which has more time.
const WAITER_PATIENCE: Duration = Duration::from_secs(300);
/// Between two questions to an engine that has not done yet what it was asked.
const PAUSE: Duration = Duration::from_millis(200);
/// How long the engine may take to remove a container.
const REMOVAL_LIMIT: Duration = Duration::from_secs(10);
/// The last API version whose inspect shows a MAC address that the user set (`Config.MacAddress`;
/// moby's API history, 1.52).
const SHOWS_MAC_ADDRESS: &str = "1.51";
/// How long the last output may take to arrive after the container ended.
const OUTPUT_LIMIT: Duration = Duration::from_secs(2);

const LOOK_AT_ENGINE: &str = "look at the Docker Engine of the OSIE: it does not run, or not well";
/// Where the host's engine listens, with no volume that leads there: HookOS, and others.
const HOSTS_SOCKETS: [&str; 3] = ["/var/run/docker.sock", "/run/docker/docker.sock", "/var/run/docker/docker.sock"];
const SOCKET_LINES: &str =
    "add to the action:  pid: host  or  volumes: [\"/var/run/docker.sock:/var/run/docker.sock\"]";

/// A Docker Engine that answered.
pub struct Docker {
    api: Api,
    /// The socket is the host's, reached through PID 1: no volume of the action leads there.
    through_init: bool,
}

/// The action container and our own image, as inspected.
pub struct Action {
    container: Value,
    image: Value,
}

/// The output of the user container, as attach sends it.
pub struct Output {
    stream: Stream,
    demux: Demux,
    tail: Tail,
    open: bool,
}

/// The action whose end is awaited, and the engine's answer to "wait for it", which is still open; there is
/// none where the action is gone.
pub struct Pending {
    action: String,
    answer: Option<Stream>,
}

impl Docker {
    /// Reaches the engine at `host`.
    ///
    /// # Errors
    /// Why it cannot be reached, with the template lines that mend it.
    pub async fn reach(host: &DockerHost) -> Result<Self, Failure> {
        let error = match Api::reach(host, HANDOFF_PATIENCE).await {
            Ok(api) => return Ok(Self { api, through_init: false }),
            Err(error) => error,
        };
        let mounted = |path: &Path| std::fs::metadata(path).is_ok_and(|found| found.file_type().is_socket());
        if *host == DockerHost::default() && !matches!(host, DockerHost::Unix(path) if mounted(path)) {
            for path in HOSTS_SOCKETS.into_iter().filter_map(|path| host::path_through_init(Path::new(path))) {
                if mounted(&path)
                    && let Ok(api) = Api::reach(&DockerHost::Unix(path), HANDOFF_PATIENCE).await
                {
                    return Ok(Self { api, through_init: true });
                }
            }
        }
        Err(unreachable(host, error))
    }

    /// The engine of a ticket, which the handoff reached before.
    pub fn known(host: DockerHost, later: Option<PathBuf>, version: String) -> Self {
        Self { api: Api::known(host, version, WAITER_PATIENCE).later_at(later), through_init: false }
    }

    /// Pulls once.
    async fn pull_once(&self, image: &Reference, auth: Option<&str>) -> Result<(), PullFailed> {
        let path = format!("/images/create?fromImage={}&tag={}", part(image.name()), part(image.digest_or_tag()));
        let mut stream = self.api.post_stream(&path, auth).await?;
        let mut progress = pull::Progress::default();
        let mut report_at = Instant::now() + PROGRESS_EVERY;
        loop {
            match timeout_at(report_at, stream.next()).await {
                Ok(piece) => match piece? {
                    Some(piece) => progress.feed(&piece)?,
                    None => break,
                },
                Err(_) => {
                    report_at += PROGRESS_EVERY;
                    let (done, all) = progress.bytes();
                    let status = progress.status();
                    tracing::info!(
                        image = image.as_written(),
                        bytes = done,
                        bytes_known = all,
                        status,
                        "still pulling"
                    );
                }
            }
        }
        progress.end()?;
        Ok(())
    }

    /// Creates a container exactly once. Where the answer is lost, the engine may have made it: then a
    /// container with its name and this handoff's label is there.
    async fn create(&self, name: &str, body: &Value, handoff: &HandoffId) -> Result<String, ApiError> {
        let mut tries = Tries::within(HANDOFF_PATIENCE);
        loop {
            let error = match self.api.post(&format!("/containers/create?name={}", part(name)), Some(body)).await {
                Ok(answer) if answer["Id"].is_string() => {
                    for warning in answer["Warnings"].as_array().into_iter().flatten() {
                        tracing::warn!(container = name, "the engine warns: {}", warning.as_str().unwrap_or_default());
                    }
                    return Ok(answer["Id"].as_str().unwrap_or_default().to_owned());
                }
                Ok(_) => ApiError::Empty { request: "POST /containers/create".into() },
                Err(error) => error,
            };
            // To a second try the engine may say that the name is taken: by the first one's.
            let taken = error.status() == Some(409) && tries.failed() > 0;
            if error.worth() == Worth::Nothing && !taken {
                return Err(error);
            }
            match self.inspect(name).await {
                Ok(made) if made["Config"]["Labels"][LABEL_HANDOFF] == handoff.as_str() => {
                    return Ok(made["Id"].as_str().unwrap_or_default().to_owned());
                }
                // Another's; where the engine has not said so yet, it will.
                Ok(_) if taken => return Err(error),
                Ok(_) => {}
                Err(missing) if missing.status() == Some(404) => {}
                Err(other) => return Err(other),
            }
            // Taken and not to be seen: the first try is still at work.
            let worth = if taken { Worth::Long } else { error.worth() };
            if !tries.again_worth(worth, "creating a container", &error).await {
                return Err(error);
            }
        }
    }

    /// Connects a new container to one more of its networks.
    async fn connect(&self, network: &str, body: &Value) -> Result<(), ApiError> {
        let path = format!("/networks/{}/connect", part(network));
        let mut tries = Tries::within(HANDOFF_PATIENCE);
        loop {
            match self.api.post(&path, Some(body)).await {
                Ok(_) => return Ok(()),
                // Connected by the try whose answer was lost (moby: "endpoint with name ... already exists in network").
                Err(ApiError::Refused { message, .. }) if tries.failed() > 0 && message.contains("already") => {
                    return Ok(());
                }
                Err(error) if tries.again("connecting a network", &error).await => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// What the engine is asked for, to make the user container.
    fn user_container(&self, action: &Action, image: &Reference, handoff: &HandoffId) -> copy::Creation {
        let (_, action_name) = self.action_names(action);
        let labels = Role::User.labels(action_name, handoff);
        copy::user_container(&action.container, &action.image, image.as_written(), &labels)
    }

    /// What the engine is asked for, to make the waiter.
    fn waiter_container(&self, action: &Action, ticket: &Ticket) -> Result<Value, Failure> {
        let way = match self.api.host() {
            DockerHost::Unix(_) if self.through_init => copy::Way::ThroughInit,
            DockerHost::Unix(path) => copy::Way::Mounted(path),
            DockerHost::Tcp(_) => copy::Way::Network,
        };
        let foreign_socket = matches!(self.api.host(), DockerHost::Unix(path) if belongs_to_another(path));
        let (_, action_name) = self.action_names(action);
        let body = copy::waiter(
            &action.container,
            &copy::WaiterParts {
                program: WAITER_PROGRAM,
                argument: ticket.to_argument().because("cannot write the waiter's ticket")?,
                labels: &Role::Waiter.labels(action_name, &ticket.handoff),
                way,
                foreign_socket,
                signals_init: ticket.finish_reboot.is_some(),
                needs_network: ticket.needs_network(),
            },
        );
        body.ok_or_else(|| {
            Failure::new("no volume of the action leads to the engine's socket").field("volumes").fix(SOCKET_LINES)
        })
    }

    async fn inspect(&self, container: &str) -> Result<Value, ApiError> {
        self.api.get(&format!("/containers/{}/json", part(container))).await
    }

    /// All containers that bear the label, running or not.
    async fn labelled(&self, key: &str, value: &str) -> Result<Vec<Value>, ApiError> {
        let filters = json!({"label": [format!("{key}={value}")]}).to_string();
        let listed = self.api.get(&format!("/containers/json?all=1&filters={}", part(&filters))).await?;
        Ok(listed.as_array().cloned().unwrap_or_default())
    }

    /// Removes a container with its anonymous volumes and returns when it is gone.
    async fn remove(&self, id: &str, even_running: bool) -> Result<(), ApiError> {
        let path = format!("/containers/{}?v=1&force={even_running}", part(id));
        let end = Instant::now() + REMOVAL_LIMIT;
        loop {
            match self.api.delete(&path).await {
                Ok(()) | Err(ApiError::Refused { status: 404, .. }) => return Ok(()),
                // "removal of container ... is already in progress": its name is still taken.
                Err(ApiError::Refused { status: 409, message, .. })
                    if message.contains("in progress") && Instant::now() < end => {}
                Err(error) => return Err(error),
            }
            sleep(PAUSE).await;
        }
    }

    /// The first of these containers that runs.
    async fn running<'a>(&self, ids: &[&'a str]) -> Result<Option<&'a str>, ApiError> {
        for id in ids {
            match self.inspect(id).await {
                Ok(document) if document["State"]["Running"] == true => return Ok(Some(id)),
                Ok(_) | Err(ApiError::Refused { status: 404, .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Opens the question for the container's end. The engine sends the answer's head when it
    /// listens (API 1.30 and later), so nothing is missed from then on.
    async fn await_end(&self, container: &str) -> Result<Stream, ApiError> {
        self.api.listen(&format!("/containers/{}/wait?condition=not-running", part(container))).await
    }

    /// Attaches to a container's output; with `from_start` to what it said before too, where its log driver
    /// can be read.
    async fn attach(&self, container: &str, from_start: bool) -> Result<Stream, ApiError> {
        let logs = if from_start { "&logs=1" } else { "" };
        self.api.listen(&format!("/containers/{}/attach?stream=1&stdout=1&stderr=1{logs}", part(container))).await
    }

    /// Starts a container exactly once. Where the answer is lost, the engine may have started it: only
    /// a container that is seen to be `created` is asked for again.
    async fn start_once(&self, id: &str, patience: Duration) -> Result<(), ApiError> {
        let mut tries = Tries::within(patience);
        // A container that has ended would be started again.
        if self.inspect(id).await?["State"]["Status"] != "created" {
            return Ok(());
        }
        loop {
            let lost = match self.api.post(&format!("/containers/{}/start", part(id)), None).await {
                Ok(_) => return Ok(()),
                Err(error) if error.worth() == Worth::Nothing => return Err(error),
                Err(error) => error,
            };
            if self.inspect(id).await?["State"]["Status"] != "created" {
                return Ok(());
            }
            if !tries.again("starting a container", &lost).await {
                return Err(lost);
            }
        }
    }

    /// How the action ended, from the engine's memory of events, where the container is gone.
    async fn remembered_end(&self, action: &str) -> Option<i64> {
        let filters = json!({"container": [action], "event": ["die"]}).to_string();
        // All that it remembers, to now: the ID tells which. It counts in whole seconds and leaves out what
        // came later in the last one.
        let path = format!("/events?since=1&until={}&filters={}", unix_time() + 1, part(&filters));
        let events = self.api.get_lines(&path).await.ok()?;
        events.last()?["Actor"]["Attributes"]["exitCode"].as_str()?.parse().ok()
    }
}

impl Engine for Docker {
    type Action = Action;
    type Pending = Pending;
    type Output = Output;

    async fn identify(&self, handoff: &HandoffId) -> Result<Action, Failure> {
        let mut container = identity::prove(&self.api, handoff).await?;
        let image = container["Image"].as_str().unwrap_or_default();
        let image = self.api.get(&format!("/images/{}/json", part(image))).await;
        let image =
            image.because("cannot inspect waitdaemon's own image").map_err(|failure| failure.fix(LOOK_AT_ENGINE))?;
        if api::newer(self.api.version(), SHOWS_MAC_ADDRESS) {
            let path = format!("/containers/{}/json", part(container["Id"].as_str().unwrap_or_default()));
            let older = self.api.speaking(SHOWS_MAC_ADDRESS).get(&path).await;
            let mut older =
                older.because("cannot inspect the action container").map_err(|failure| failure.fix(LOOK_AT_ENGINE))?;
            container["Config"]["MacAddress"] = older["Config"]["MacAddress"].take();
        }
        Ok(Action { container, image })
    }

    fn described(&self) -> String {
        format!("Docker Engine at {}, API {}", self.api.host(), self.api.version())
    }

    fn keeps_logs(&self) -> bool {
        // HookOS's engine has the log driver syslog.
        false
    }

    fn proof(&self, _: &Action) -> &'static str {
        identity::PROOF
    }

    fn action_names<'a>(&self, action: &'a Action) -> (&'a str, &'a str) {
        let name = action.container["Name"].as_str().unwrap_or_default();
        (action.container["Id"].as_str().unwrap_or_default(), name.trim_start_matches('/'))
    }

    fn has_terminal(&self, action: &Action) -> bool {
        action.container["Config"]["Tty"] == true
    }

    fn ticket(&self, action: &Action) -> EngineTicket {
        let host = self.api.host().clone();
        let later = match &host {
            DockerHost::Unix(path) if !self.through_init => copy::later_socket(&action.container, path),
            _ => None,
        };
        EngineTicket::Docker { host, later, version: self.api.version().to_owned() }
    }

    async fn pull(&self, image: &Reference, login: Option<&Login>, limit: Duration) -> Result<(), Failure> {
        let auth = login.map(|login| login.registry_auth(image));
        let stumble = RefCell::new(None);
        let pull = patiently(limit, "pulling the image", || async {
            self.pull_once(image, auth.as_deref())
                .await
                .inspect_err(|error| drop(stumble.replace(Some(error.to_string()))))
        });
        match timeout(limit, pull).await {
            Ok(pulled) => pulled.map_err(|error| failures::pull_failed(image).cause(error)),
            Err(_) => Err(failures::pull_too_long(image, limit, stumble.take())),
        }
    }

    async fn image(&self, image: &Reference) -> Result<Option<Value>, Failure> {
        match self.api.get(&format!("/images/{}/json", part(image.as_written()))).await {
            Ok(mut found) => Ok(Some(found["Config"].take())),
            Err(ApiError::Refused { status: 404, .. }) => Ok(None),
            Err(error) => Err(error).because(format!("cannot inspect the image {image}")),
        }
    }

    async fn find_in_registry(&self, image: &Reference, login: Option<&Login>) -> Result<(), Failure> {
        let auth = login.map(|login| login.registry_auth(image));
        let asked = self.api.get_as(&format!("/distribution/{}/json", part(image.as_written())), auth.as_deref()).await;
        asked.map(drop).map_err(|error| failures::pull_failed(image).cause(error))
    }

    async fn standing(&self, container: &str, action_name: &str) -> Result<Standing, Failure> {
        match self.inspect(container).await {
            Ok(found) if found["Config"]["Labels"][LABEL_ACTION] != action_name => Ok(Standing::Foreign),
            Ok(found) if found["State"]["Running"] == true => Ok(Standing::Running),
            Ok(_) => Ok(Standing::Pending),
            Err(ApiError::Refused { status: 404, .. }) => Ok(Standing::Free),
            Err(error) => Err(error).because(format!("cannot inspect {container}")),
        }
    }

    async fn plan(&self, action: &Action, image: &Reference, ticket: &Ticket) -> Planned {
        let mut config = self.user_container(action, image, &ticket.handoff).create;
        let host = config["HostConfig"].take();
        // An inspect document has the networks elsewhere, with what the engine generated.
        config["NetworkingConfig"].take();
        let (mut differences, mut given) = (Vec::new(), action.container["Config"].clone());
        if let Some(environment) = given["Env"].as_array_mut() {
            environment.retain(|variable| !variable.as_str().is_some_and(is_of_login));
        }
        json::differences("Config", &given, &config, &mut differences);
        json::differences("HostConfig", &action.container["HostConfig"], &host, &mut differences);
        let problems = self.waiter_container(action, ticket).err().into_iter().collect();
        Planned { words: list(&config["Cmd"]).to_vec(), differences, problems }
    }

    async fn clear_earlier(&self, action: &Action) -> Result<Earlier, Failure> {
        let (_, name) = self.action_names(action);
        let failed = "cannot clear what an earlier attempt of this action left";
        let failed = |error: ApiError| Failure::new(failed).fix(LOOK_AT_ENGINE).cause(error);
        let found = self.labelled(LABEL_ACTION, name).await.map_err(failed)?;
        let in_role = |role: Role| -> Vec<&str> {
            let of_role = found.iter().filter(|container| container["Labels"][LABEL_ROLE] == role.as_str());
            of_role.filter_map(|container| container["Id"].as_str()).collect()
        };
        let users = in_role(Role::User);
        if let Some(user) = self.running(&users).await.map_err(failed)? {
            return Ok(Earlier::Running(user.to_owned()));
        }
        // The waiter first: once it is gone, nothing starts the user container behind our back.
        for id in in_role(Role::Waiter) {
            tracing::warn!(container = id, "removing the waiter of an earlier attempt of this action");
            self.remove(id, true).await.map_err(failed)?;
        }
        if let Some(user) = self.running(&users).await.map_err(failed)? {
            return Ok(Earlier::Running(user.to_owned()));
        }
        for id in users {
            tracing::warn!(container = id, "removing the user container of an earlier attempt of this action");
            self.remove(id, false).await.map_err(failed)?;
        }
        Ok(Earlier::Cleared)
    }

    async fn create_user(&self, action: &Action, image: &Reference, handoff: &HandoffId) -> Result<(), Failure> {
        let (_, action_name) = self.action_names(action);
        let name = Role::User.container_name(action_name);
        let wanted = self.user_container(action, image, handoff);
        let failed = |error| creation_failed("the user container", &name, error);
        let id = self.create(&name, &wanted.create, handoff).await.map_err(failed)?;
        for (network, endpoint) in wanted.connect {
            let body = json!({"Container": id, "EndpointConfig": endpoint});
            self.connect(&network, &body).await.map_err(failed)?;
        }
        tracing::info!(container = name, "user container created");
        Ok(())
    }

    async fn create_waiter(&self, action: &Action, ticket: &Ticket) -> Result<Made, Failure> {
        let (_, action_name) = self.action_names(action);
        let name = Role::Waiter.container_name(action_name);
        let body = self.waiter_container(action, ticket)?;
        let id = self.create(&name, &body, &ticket.handoff).await;
        let id = id.map_err(|error| creation_failed("the waiter", &name, error))?;
        Ok(Made { id, started: false })
    }

    async fn start_waiter(&self, _: &Action, waiter: &Made, handoff: &HandoffId) -> Result<(), Failure> {
        let waiter = waiter.id.as_str();
        let failed = |what: &str| {
            let what = what.to_owned();
            move |error: ApiError| Failure::new(what).fix(LOOK_AT_ENGINE).cause(error)
        };
        let armed = async {
            let mut output = self.attach(waiter, false).await.map_err(failed("cannot attach to the waiter"))?;
            self.start_once(waiter, HANDOFF_PATIENCE).await.map_err(failed("cannot start the waiter"))?;
            loop {
                let (mut demux, mut tail) = (Demux::new(false), Tail::default());
                let mut heard = String::new();
                while let Ok(Some(piece)) = output.next().await {
                    let said = demux.feed(&piece);
                    tail.feed(&said);
                    heard.push_str(&String::from_utf8_lossy(&said));
                    if logging::announces(&heard, ARMED, handoff) {
                        return Ok(());
                    }
                }
                let document = self.inspect(waiter).await.map_err(failed("lost the waiter before it was armed"))?;
                if document["State"]["Running"] != true {
                    let said = tail.into_lines().join(" | ");
                    return Err(Failure::new("the waiter ended before it was armed")
                        .fix("see what it said")
                        .cause(said));
                }
                tracing::warn!("lost the waiter's output before it was armed, listening again");
                output = self.attach(waiter, true).await.map_err(failed("cannot attach to the waiter"))?;
                sleep(PAUSE).await;
            }
        };
        timeout(ARMING_LIMIT, armed).await.unwrap_or_else(|_| Err(failures::not_armed().fix(LOOK_AT_ENGINE)))
    }

    async fn remove_made_by(&self, handoff: &HandoffId) -> Result<(), Failure> {
        let failed = "cannot remove what this handoff made";
        let made = self.labelled(LABEL_HANDOFF, handoff.as_str()).await.because(failed)?;
        // The waiter last: it may be the caller.
        let is_waiter = |container: &Value| container["Labels"][LABEL_ROLE] == Role::Waiter.as_str();
        let (waiters, others): (Vec<Value>, Vec<Value>) = made.into_iter().partition(is_waiter);
        let mut result = Ok(());
        for container in others.into_iter().chain(waiters) {
            let id = container["Id"].as_str().unwrap_or_default();
            result = result.and(self.remove(id, true).await.because(format!("{failed}: {id}")));
        }
        result
    }

    async fn arm(&self, ticket: &Ticket) -> Result<Armed<Pending>, Failure> {
        let answer = match self.await_end(&ticket.action_id).await {
            Ok(answer) => Some(answer),
            // The engine may remember how it ended.
            Err(ApiError::Refused { status: 404, .. }) => None,
            Err(error) => return Err(error).because("cannot wait for the action container"),
        };
        let own = async |role: Role| {
            let name = role.container_name(&ticket.action_name);
            let document = self.inspect(&name).await.because(format!("cannot inspect {name}"))?;
            if document["Config"]["Labels"][LABEL_HANDOFF] != ticket.handoff.as_str() {
                return Err(Failure::new(format!("the container {name} is not this handoff's")));
            }
            Ok(document)
        };
        let (waiter, user) = (own(Role::Waiter).await?, own(Role::User).await?);
        let id = |document: &Value| document["Id"].as_str().unwrap_or_default().to_owned();
        let pending = Pending { action: ticket.action_id.clone(), answer };
        Ok(Armed { waiter: id(&waiter), user: id(&user), pending, started: user["State"]["Status"] != "created" })
    }

    async fn verdict(&self, pending: Pending) -> (Verdict, Moment) {
        let verdict = self.verdict_on(pending).await;
        (verdict, Moment::now())
    }

    async fn listen(&self, user: &str, tty: bool) -> Result<Output, Failure> {
        let stream = self.attach(user, false).await.because("cannot listen to the user container")?;
        Ok(Output { stream, demux: Demux::new(tty), tail: Tail::default(), open: true })
    }

    async fn start(&self, user: &str) -> Result<(), Failure> {
        self.start_once(user, WAITER_PATIENCE).await.map_err(|error| {
            let failure = Failure::new("cannot start the user container");
            let failure = match &error {
                // runc: `exec: "name": executable file not found in $PATH`, `...: permission denied`
                ApiError::Refused { message, .. } if message.contains("exec: \"") => failure
                    .field("command")
                    .fix("check that it exists in IMAGE and may be executed; the container is kept"),
                ApiError::Refused { .. } => {
                    failure.fix("the engine's message names what it could not set up; the container is kept")
                }
                _ => failure.fix(LOOK_AT_ENGINE),
            };
            failure.cause(error)
        })
    }

    async fn watch(&self, user: &str, output: Option<Output>, limit: Duration) -> Outcome {
        let end = patiently(WAITER_PATIENCE, "watching the user container", || async {
            self.await_end(user).await?.json().await.and_then(end_of)
        });
        tokio::pin!(end);
        let mut output = output;
        let over = Instant::now() + limit;
        let ended = loop {
            tokio::select! {
                ended = &mut end => break ended,
                () = hear(&mut output) => {}
                () = sleep_until(over) => return Outcome::Running,
            }
        };
        let code = match ended {
            Ok(answer) => answer["StatusCode"].as_i64().unwrap_or(-1),
            Err(ApiError::Refused { status: 404, .. }) => return Outcome::Removed,
            Err(error) => return Outcome::Lost(error.to_string()),
        };
        // The end may be known before the last output has come.
        let rest = async {
            while output.as_ref().is_some_and(|output| output.open) {
                hear(&mut output).await;
            }
        };
        let _ = timeout(OUTPUT_LIMIT, rest).await;
        let last_lines = output.map(|output| output.tail.into_lines()).unwrap_or_default();
        Outcome::Exited { code, note: self.note_on_end(user).await, last_lines }
    }

    async fn discard(&self, user: &str) -> Result<Discarded, Failure> {
        let end = Instant::now() + REMOVAL_LIMIT;
        loop {
            let error = match self.inspect(user).await {
                Err(ApiError::Refused { status: 404, .. }) => return Ok(Discarded::Removed),
                Ok(document) if document["State"]["Status"] != "created" => return Ok(Discarded::Started),
                Ok(_) => match self.remove(user, false).await {
                    Ok(()) => return Ok(Discarded::Removed),
                    Err(error) => error,
                },
                Err(error) => error,
            };
            if Instant::now() >= end {
                return Err(error).because("cannot remove the user container, which shall not run");
            }
            sleep(PAUSE).await;
        }
    }

    async fn remove_ended(&self, container: &str) -> Result<(), Failure> {
        self.remove(container, false).await.because("cannot remove the ended container")
    }

    async fn retire(&self, waiter: &str) -> Result<(), Failure> {
        let body = json!({"RestartPolicy": {"Name": "no"}});
        let path = format!("/containers/{}/update", part(waiter));
        // Twice is as good as once.
        let retired = patiently(WAITER_PATIENCE, "retiring the waiter", || self.api.post(&path, Some(&body))).await;
        retired.map(drop).because("cannot keep the engine from starting the waiter again")
    }

    async fn remove_self(&self, waiter: &str) -> Result<(), Failure> {
        self.remove(waiter, true).await.because("cannot remove the waiter's own container")
    }
}

/// Takes the next piece of the output; never returns where none will come.
async fn hear(output: &mut Option<Output>) {
    let Some(output) = output.as_mut().filter(|output| output.open) else { return std::future::pending().await };
    match output.stream.next().await {
        Ok(Some(piece)) => output.tail.feed(&output.demux.feed(&piece)),
        _ => output.open = false,
    }
}

impl Docker {
    async fn verdict_on(&self, pending: Pending) -> Verdict {
        let Pending { action, answer: mut first } = pending;
        let end = patiently(WAITER_PATIENCE, "waiting for the action's end", || {
            let (opened, action) = (first.take(), &action);
            async move {
                let answer = match opened {
                    Some(answer) => answer,
                    None => self.await_end(action).await?,
                };
                answer.json().await.and_then(end_of)
            }
        });
        match end.await {
            Ok(end) => verdict_of(&end),
            Err(ApiError::Refused { status: 404, .. }) => match self.remembered_end(&action).await {
                Some(code) => verdict_of(&json!({"StatusCode": code})),
                None => Verdict::Unknown("the action container is gone".into()),
            },
            Err(error) => Verdict::Unknown(error.to_string()),
        }
    }

    /// What the engine says of a container's end besides its exit code.
    async fn note_on_end(&self, id: &str) -> String {
        let Ok(document) = self.inspect(id).await else { return String::new() };
        let said = document["State"]["Error"].as_str().unwrap_or_default();
        if document["State"]["OOMKilled"] == true { format!("out of memory {said}").trim().into() } else { said.into() }
    }
}

/// The answer to "wait", which ends early and empty where the connection is closed.
fn end_of(answer: Value) -> Result<Value, ApiError> {
    let request = || "POST /containers/wait".to_owned();
    if answer["StatusCode"].is_i64() { Ok(answer) } else { Err(ApiError::Empty { request: request() }) }
}

/// Why a pull failed.
#[derive(Debug, thiserror::Error)]
enum PullFailed {
    /// The engine's answer.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// Its word inside the stream.
    #[error(transparent)]
    Stream(#[from] pull::PullError),
}

impl Stumble for PullFailed {
    fn worth(&self) -> Worth {
        match self {
            // The engine passes a registry's refusal on with a status of its own.
            Self::Api(ApiError::Refused { message, .. }) => failures::worth_of_pull(message),
            Self::Api(error) => error.worth(),
            Self::Stream(error) => failures::worth_of_pull(&error.0),
        }
    }
}

fn verdict_of(end: &Value) -> Verdict {
    let error = end["Error"]["Message"].as_str().unwrap_or_default();
    match end["StatusCode"].as_i64() {
        Some(0) if error.is_empty() => Verdict::Succeeded,
        Some(code) => Verdict::Failed(format!("exit code {code} {error}").trim().to_owned()),
        None => Verdict::Unknown(format!("the engine did not say how the action ended: {end}")),
    }
}

/// Why a container could not be created: the engine's own word, and what to do.
fn creation_failed(what: &str, name: &str, error: ApiError) -> Failure {
    let failure = Failure::new(format!("cannot create {what} {name}"));
    let failure = match &error {
        // Docker 20.10: "No command specified", moby 2: "no command specified".
        ApiError::Refused { message, .. } if message.contains("ommand specified") => failures::no_command(),
        ApiError::Refused { status: 409, message, .. } if message.contains("already in use") => {
            failure.fix(failures::NAME_IS_TAKEN)
        }
        ApiError::Refused { status: 404, message, .. } if message.contains("image") => {
            failure.field("environment.IMAGE").fix("the image vanished after it was found; serve the action again")
        }
        ApiError::Refused { message, .. } => failures::of_setting(failure, message),
        _ => failure.fix(LOOK_AT_ENGINE),
    };
    failure.cause(error)
}

/// Why the engine at `host` cannot be used, told by looking at the socket.
fn unreachable(host: &DockerHost, error: ApiError) -> Failure {
    let default = DockerHost::default();
    let field = if *host == default { "volumes" } else { "environment.DOCKER_HOST" };
    let (what, fix) = match (host, &error) {
        (_, ApiError::TooOld(_)) => ("the Docker Engine is too old".into(), "use an OSIE with Docker 20.10 or later"),
        (DockerHost::Tcp(_), _) => (
            format!("no Docker Engine answers at {host}"),
            "check the address, or leave DOCKER_HOST out and mount /var/run/docker.sock",
        ),
        (DockerHost::Unix(path), _) => unreachable_socket(path, &error, *host == default),
    };
    Failure::new(what).field(field).fix(fix).cause(error)
}

fn unreachable_socket(path: &Path, error: &ApiError, default: bool) -> (String, &'static str) {
    let shown = path.display();
    let mount = if default { SOCKET_LINES } else { "mount a Docker socket at this path, or correct DOCKER_HOST" };
    let kind = match error {
        ApiError::Connect { source, .. } => Some(source.kind()),
        _ => None,
    };
    match std::fs::metadata(path) {
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => {
            (format!("the Docker socket {shown} is not mounted"), mount)
        }
        Ok(found) if found.is_dir() => (
            format!("{shown} is a directory: the machine has no Docker socket at the path that was mounted"),
            "on an OSIE without Docker use CONTAINER_RUNTIME auto or nerdctl; else correct the volume's left side",
        ),
        Ok(found) if !found.file_type().is_socket() => (format!("{shown} is not a socket"), mount),
        _ if kind == Some(io::ErrorKind::PermissionDenied) => (
            format!("permission denied on the Docker socket {shown}"),
            "run the action as root, and without user namespaces",
        ),
        _ if kind == Some(io::ErrorKind::ConnectionRefused) => {
            (format!("nobody listens on the Docker socket {shown}"), LOOK_AT_ENGINE)
        }
        _ => (format!("no Docker Engine answers at {shown}"), LOOK_AT_ENGINE),
    }
}

/// True where the socket's owner is not the user that we run as.
fn belongs_to_another(socket: &Path) -> bool {
    std::fs::metadata(socket).is_ok_and(|found| found.uid() != rustix::process::geteuid().as_raw())
}

fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exit_code_0_without_an_error_is_success() {
        assert_eq!(verdict_of(&json!({"StatusCode": 0, "Error": null})), Verdict::Succeeded);
        assert_eq!(verdict_of(&json!({"StatusCode": 137})), Verdict::Failed("exit code 137".into()));
        assert!(matches!(verdict_of(&json!({"StatusCode": 0, "Error": {"Message": "x"}})), Verdict::Failed(_)));
        assert!(matches!(verdict_of(&Value::Null), Verdict::Unknown(_)));
    }
}

//! Docker Engine: the seam's primitives as requests to its API.

pub mod api;
mod api_error;
pub mod attach;
mod networks;
pub mod pull;
mod reach;
pub mod refusal;
pub mod request;
pub mod seen;
pub mod socket;
pub mod waiter_request;

use std::cell::RefCell;
use std::future::ready;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use self::api::{Api, escape, is_newer};
use self::api_error::ApiError;
use self::attach::Attached;
use self::pull::PullStream;
use self::request::Creation;
use self::socket::{SOCKET_LINES, belongs_to_another};
use self::waiter_request::{WaiterParts, Way};
use super::json::{differences, list, text};
use super::platform::Platform;
use super::registry::refusal_of_pull;
use super::{
    About, Answer, Created, Detail, Engine, Image, Life, Listen, Order, Output, PendingEnd,
    Prepared, Progress, Pulling, Refusal, Removal, Request, Seen, Which,
};
use crate::console::DEVICE;
use crate::error::Failure;
use crate::login::{Login, is_of_login};
use crate::machine::namespaces;
use crate::names::{LABEL_ACTION, LABEL_HANDOFF, Role, WAITER_PROGRAM};
use crate::reference::Reference;
use crate::settings::DockerHost;
use crate::ticket::{EngineTicket, Ticket};

/// The last API version whose inspect shows a MAC address set by the user (`Config.MacAddress`;
/// moby's API history, 1.52).
const SHOWS_MAC_ADDRESS: &str = "1.51";

const CHECK: &str = "check the OSIE's Docker Engine: it is down or unhealthy";

/// A Docker Engine that answered.
#[derive(Debug, Clone)]
pub struct Docker {
    api: Api,
    /// True if the host's socket is reached through PID 1: no volume of the action leads there.
    through_init: bool,
}

impl Docker {
    /// Returns the engine of a ticket, which the handoff has already reached.
    pub fn from_ticket(
        host: DockerHost,
        socket_after_restart: Option<PathBuf>,
        version: String,
    ) -> Self {
        let api = Api::with_version(host, version).socket_after_restart(socket_after_restart);
        Self { api, through_init: false }
    }

    async fn inspect_one(&self, container: &str, detail: Detail) -> Result<Option<Seen>, Refusal> {
        let path = format!("/containers/{}/json", escape(container));
        let mut document = match self.api.get(&path).await.map_err(Refusal::from) {
            Ok(document) => document,
            Err(refusal) if refusal.is_gone() => return Ok(None),
            Err(refusal) => return Err(refusal),
        };
        if detail == Detail::Whole && is_newer(self.api.version(), SHOWS_MAC_ADDRESS) {
            let older = match self.api.speaking(SHOWS_MAC_ADDRESS).get(&path).await {
                Ok(older) => seen::chosen_address(&older),
                // An engine may refuse versions that it knows (`min-api-version`). It is then
                // unknown who chose the address: the user container gets the action's in any case.
                Err(ApiError::Refused { status: 400, .. }) => seen::network_address(&document),
                Err(error) => return Err(error.into()),
            };
            if let Some(config) = document["Config"].as_object_mut() {
                config.insert("MacAddress".into(), older);
            }
        }
        seen::container(document).map(Some)
    }

    async fn pull_whole(
        &self,
        image: &Reference,
        login: Option<&Login>,
        progress: &RefCell<Progress>,
    ) -> Result<(), Refusal> {
        let auth = login.map(|login| login.registry_auth(image));
        let (name, tag) = (escape(image.name()), escape(image.digest_or_tag()));
        let opened = self
            .api
            .post_stream(&format!("/images/create?fromImage={name}&tag={tag}"), auth.as_deref())
            .await;
        let mut stream = opened.map_err(registry_refusal)?;
        let mut said = PullStream::default();
        while let Some(piece) = stream.next().await? {
            said.feed(&piece).map_err(|error| refusal_of_pull(error.0))?;
            let (bytes, bytes_known) = said.bytes();
            progress.replace(Progress { bytes, bytes_known, status: said.status().to_owned() });
        }
        said.end().map_err(|error| refusal_of_pull(error.0))
    }

    /// Opens the wait. The engine sends the answer's head once it is listening (API 1.30 and
    /// later), so nothing is missed from then on. If the container is gone, the engine's remembered
    /// events tell.
    async fn open_wait(&self, container: &str) -> Result<PendingEnd, Refusal> {
        let path = format!("/containers/{}/wait?condition=not-running", escape(container));
        match self.api.listen(&path).await.map_err(Refusal::from) {
            Ok(answer) => Ok(Box::pin(async move {
                let empty = ApiError::Empty { request: "POST /containers/wait".to_owned() };
                seen::end(&answer.json().await?).ok_or_else(|| empty.into())
            })),
            Err(refusal) if refusal.is_gone() => {
                let code = self.remembered_end(container).await?.ok_or(refusal)?;
                Ok(Box::pin(ready(Ok(Life::Ended { code, note: String::new() }))))
            }
            Err(refusal) => Err(refusal),
        }
    }

    /// Returns the exit code of a container that is gone, if the engine remembers its end.
    async fn remembered_end(&self, container: &str) -> Result<Option<i64>, Refusal> {
        let filters = json!({"container": [container], "event": ["die"]}).to_string();
        // Ask for all remembered events up to now: the ID selects. The engine counts in whole
        // seconds and leaves out what came later in the last one.
        let path =
            format!("/events?since=1&until={}&filters={}", unix_time() + 1, escape(&filters));
        let events = self.api.get_lines(&path).await?;
        let code =
            events.last().and_then(|event| event["Actor"]["Attributes"]["exitCode"].as_str());
        Ok(code.and_then(|code| code.parse().ok()))
    }

    /// Builds the request that creates the waiter.
    fn waiter(&self, order: &Order<'_>) -> Result<Value, Failure> {
        let on = match self.api.host() {
            DockerHost::Unix(path) => namespaces::mount_point(path),
            DockerHost::Tcp(_) => None,
        };
        let way = match self.api.host() {
            DockerHost::Unix(_) if self.through_init => Way::ThroughInit,
            DockerHost::Unix(path) => {
                Way::Mounted { socket: path, on: on.as_deref(), whole: namespaces::has_own_users() }
            }
            DockerHost::Tcp(_) => Way::Network,
        };
        let action = &order.action.whole.document;
        let foreign_socket =
            matches!(self.api.host(), DockerHost::Unix(path) if belongs_to_another(path));
        let ticket = Ticket { engine: self.ticket(action), duty: order.duty.clone() };
        let body = waiter_request::waiter(
            action,
            &WaiterParts {
                program: WAITER_PROGRAM,
                argument: ticket.to_argument(),
                labels: &Role::Waiter.labels(&order.origin()),
                way,
                foreign_socket,
                signals_init: order.duty.signals_init(),
                ends_machine: order.duty.ends_machine(),
                unloads_kernel: order.duty.unloads_kernel(),
                needs_network: order.duty.needs_network(),
                has_console: namespaces::has_device(Path::new(DEVICE)),
            },
        );
        body.ok_or_else(|| {
            Failure::new("no volume of the action leads to the engine's socket")
                .field("volumes")
                .fix(SOCKET_LINES)
        })
    }

    fn ticket(&self, action: &Value) -> EngineTicket {
        let host = self.api.host().clone();
        let socket_after_restart = match &host {
            DockerHost::Unix(path) if !self.through_init => {
                waiter_request::socket_after_restart(action, path)
            }
            _ => None,
        };
        EngineTicket::Docker { host, socket_after_restart, version: self.api.version().to_owned() }
    }

    /// Builds both requests.
    fn build(&self, order: &Order<'_>) -> Prepared {
        let action = &order.action.whole.document;
        let labels = Role::User.labels(&order.origin());
        let user = order.user.as_ref().map(|user| {
            let own = &user.own_image.document;
            request::user_container(action, own, user.image.as_written(), user.arguments, &labels)
        });
        let differences = user.as_ref().map(|user| compare(action, user)).unwrap_or_default();
        let (waiter, problems) = match self.waiter(order) {
            Ok(create) => (Some(Creation { create, connect: Vec::new() }), Vec::new()),
            Err(failure) => (None, vec![failure]),
        };
        Prepared {
            user: user.map(|creation| order.request(Role::User, creation)),
            waiter: waiter.map(|creation| order.request(Role::Waiter, creation)),
            differences,
            no_network: None,
            refusals: Vec::new(),
            problems,
        }
    }

    /// Connects a new container to another of its networks.
    async fn connect(&self, id: &str, network: &str, endpoint: &Value) -> Result<(), Refusal> {
        let body = json!({"Container": id, "EndpointConfig": endpoint});
        match self.api.post(&format!("/networks/{}/connect", escape(network)), Some(&body)).await {
            // An attempt whose answer was lost has connected it (moby: "endpoint with name ...
            // already exists in network").
            Err(ApiError::Refused { message, .. })
                if message.contains("already exists in network") =>
            {
                Ok(())
            }
            other => other.map(drop).map_err(Refusal::from),
        }
    }
}

impl Engine for Docker {
    fn about(&self) -> About {
        About {
            described: format!("Docker Engine at {}, API {}", self.api.host(), self.api.version()),
            check: CHECK,
            // HookOS's engine uses the log driver syslog.
            keeps_logs: false,
            names_cgroups: false,
            keeps_lives: true,
            starts_waiter_early: false,
            trust: "let the OSIE's Docker Engine trust the registry: on HookOS by insecure_registries= on the kernel's command \
                    line, or by its CA in /etc/docker/certs.d",
            place: (
                "volumes",
                "mount the socket of the very engine that runs this action; if that is nerdctl, set CONTAINER_RUNTIME: nerdctl",
            ),
        }
    }

    fn inspect<'a>(&'a self, containers: &'a [&'a str], detail: Detail) -> Answer<'a, Vec<Seen>> {
        Box::pin(async move {
            let mut found = Vec::new();
            for container in containers {
                found.extend(self.inspect_one(container, detail).await?);
            }
            Ok(found)
        })
    }

    fn list<'a>(&'a self, which: Which<'a>) -> Answer<'a, Vec<String>> {
        Box::pin(async move {
            let filters = match which {
                Which::Ours => json!({"label": [LABEL_ACTION]}),
                Which::OfHandoff(handoff) => {
                    json!({"label": [format!("{LABEL_HANDOFF}={}", handoff.as_str())]})
                }
                // We may run before the engine has noted it, so `created` counts too.
                Which::Running => json!({"status": ["created", "running"]}),
            };
            let path = format!("/containers/json?all=1&filters={}", escape(&filters.to_string()));
            let listed = self.api.get_list(&path).await?;
            Ok(listed
                .iter()
                .filter_map(|container| container["Id"].as_str())
                .map(str::to_owned)
                .collect())
        })
    }

    fn image<'a>(&'a self, image: &'a str) -> Answer<'a, Option<Image>> {
        Box::pin(async move {
            match self.api.get(&format!("/images/{}/json", escape(image))).await {
                Ok(document) => Ok(seen::image(image, document)),
                Err(ApiError::Refused { status: 404, .. }) => Ok(None),
                Err(error) => Err(error.into()),
            }
        })
    }

    fn pull<'a>(
        &'a self,
        image: &'a Reference,
        login: Option<&'a Login>,
        how: Pulling<'a>,
    ) -> Answer<'a, Vec<Platform>> {
        Box::pin(async move {
            match how {
                Pulling::Find => {
                    let auth = login.map(|login| login.registry_auth(image));
                    let path = format!("/distribution/{}/json", escape(image.as_written()));
                    let found =
                        self.api.get_as(&path, auth.as_deref()).await.map_err(registry_refusal)?;
                    Ok(Platform::read_all(&found["Platforms"]))
                }
                Pulling::Whole(progress) => {
                    self.pull_whole(image, login, progress).await.map(|()| Vec::new())
                }
            }
        })
    }

    fn prepare<'a>(&'a self, order: &'a Order<'a>) -> Pin<Box<dyn Future<Output = Prepared> + 'a>> {
        Box::pin(async move { self.build(order) })
    }

    fn create<'a>(&'a self, request: &'a Request) -> Answer<'a, Created> {
        Box::pin(async move {
            let creation = request.body::<Creation>()?;
            let path = format!("/containers/create?name={}", escape(&request.name));
            let answer = self.api.post(&path, Some(&creation.create)).await?;
            let Some(id) = answer["Id"].as_str() else {
                return Err(ApiError::Empty { request: "POST /containers/create".into() }.into());
            };
            for warning in list(&answer["Warnings"]) {
                log::warn!(container = request.name.as_str(); "the engine warns: {}", text(warning));
            }
            Ok(Created { id: id.to_owned(), started: false })
        })
    }

    fn complete<'a>(&'a self, request: &'a Request, id: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            for (network, endpoint) in &request.body::<Creation>()?.connect {
                self.connect(id, network, endpoint).await?;
            }
            Ok(())
        })
    }

    fn start<'a>(&'a self, container: &'a Seen) -> Answer<'a, ()> {
        Box::pin(async move {
            self.api.post_start(&format!("/containers/{}/start", escape(&container.id))).await?;
            Ok(())
        })
    }

    fn wait<'a>(&'a self, container: &'a str, _: Option<u32>) -> Answer<'a, PendingEnd> {
        Box::pin(self.open_wait(container))
    }

    fn give_word<'a>(&'a self, waiter: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            self.api
                .post(&format!("/containers/{}/kill?signal=SIGUSR1", escape(waiter)), None)
                .await?;
            Ok(())
        })
    }

    fn output<'a>(&'a self, listen: Listen<'a>) -> Answer<'a, Box<dyn Output>> {
        Box::pin(async move {
            let logs = if listen.replay { "&logs=1" } else { "" };
            let container = escape(listen.container);
            let path = format!("/containers/{container}/attach?stream=1&stdout=1&stderr=1{logs}");
            let stream = self.api.listen(&path).await?;
            Ok(Box::new(Attached::new(stream, listen.tty)) as Box<dyn Output>)
        })
    }

    fn remove<'a>(&'a self, container: &'a str, how: Removal) -> Answer<'a, ()> {
        Box::pin(async move {
            let force = how != Removal::Idle;
            self.api
                .delete(&format!("/containers/{}?v=1&force={force}", escape(container)))
                .await?;
            Ok(())
        })
    }

    fn retire<'a>(&'a self, container: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            let body = json!({"RestartPolicy": {"Name": "no"}});
            self.api
                .post_for_object(&format!("/containers/{}/update", escape(container)), Some(&body))
                .await?;
            Ok(())
        })
    }
}

/// Judges a registry's refusal by its words: the engine passes it on with a status of its own.
fn registry_refusal(error: ApiError) -> Refusal {
    match error {
        ApiError::Refused { message, .. } => refusal_of_pull(message),
        other => other.into(),
    }
}

/// Returns where the user container would differ from the action. Pure.
fn compare(action: &Value, user: &Creation) -> Vec<Value> {
    let mut config = user.create.clone();
    let mut take = |field: &str| {
        config.as_object_mut().and_then(|config| config.remove(field)).unwrap_or_default()
    };
    let host = take("HostConfig");
    // An inspect document has the networks elsewhere, together with what the engine generated.
    take("NetworkingConfig");
    let mut given = action["Config"].clone();
    if let Some(environment) = given.get_mut("Env").and_then(Value::as_array_mut) {
        environment.retain(|variable| !variable.as_str().is_some_and(is_of_login));
    }
    let mut found = Vec::new();
    differences("Config", &given, &config, &mut found);
    differences("HostConfig", &action["HostConfig"], &host, &mut found);
    found
}

fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

//! Builds the calls that create both containers; changes nothing.

use serde_json::Value;

use super::cli::Cli;
use super::flags::{self, Creation, NotCarried, Wanted};
use super::own_namespaces::VOLUMES;
use super::waiter_call::{self, WaiterParts};
use super::{network, spec};
use crate::engine::json::differences;
use crate::engine::{Order, Prepared, UserOrder};
use crate::error::{Context, Failure};
use crate::machine::namespaces;
use crate::names::Role;
use crate::ticket::{EngineTicket, Ticket};

/// A nerdctl call that creates a container.
#[derive(Debug, Clone)]
pub struct Call {
    /// What nerdctl is run with.
    pub creation: Creation,
    /// The documents of the action and of its image, with which the new container is compared.
    pub held_against: Option<(Value, Value)>,
}

/// The machine as this process sees it, which is as nerdctl sees it.
struct Host {
    makes_networks: bool,
}

impl flags::Host for Host {
    fn block_device(&self, major: u64, minor: u64) -> Option<String> {
        namespaces::block_device(major, minor)
    }
    fn propagates(&self, path: &str) -> bool {
        namespaces::propagates(path)
    }
    fn makes_networks(&self) -> bool {
        self.makes_networks
    }
}

/// Builds both calls, for a waiter that reaches nerdctl in the host's namespaces (`in_host`) or in
/// its own.
pub async fn both(cli: &Cli, in_host: bool, namespace: &str, order: &Order<'_>) -> Prepared {
    let no_network = if order.user.is_some() { why_no_network(order, in_host).await } else { None };
    let mut prepared = Prepared { no_network, ..Prepared::default() };
    let action = &order.action.whole.document;
    let request =
        |role, creation, held_against| order.request(role, Call { creation, held_against });
    let has_network = prepared.no_network.is_none();
    let user = order.user.as_ref().map(|user| (user, user_container(order, user, has_network)));
    match user {
        None => {}
        Some((user, Ok(mut creation))) => {
            // Compared with the call that would create the action itself.
            let (name, image) = (order.action.name.as_str(), order.action.whole.image.as_str());
            let wanted = Wanted { image, name, labels: &[], arguments: user.arguments };
            let host = Host { makes_networks: true };
            let same = flags::user_container(action, &Value::Null, &wanted, &host);
            let same = same.map(|creation| Value::from(creation.arguments)).unwrap_or_default();
            let ours = Value::from(creation.arguments.clone());
            differences("nerdctl create", &same, &ours, &mut prepared.differences);
            creation.arguments.insert(0, "create".into());
            prepared.user = Some(request(
                Role::User,
                creation,
                Some((action.clone(), user.own_image.document.clone())),
            ));
        }
        Some((_, Err(not_carried))) => prepared.refusals.push(not_carried.into()),
    }
    if order.user.is_some() {
        let restart = &action["Labels"]["containerd.io/restart.policy"];
        differences("--restart", restart, &Value::Null, &mut prepared.differences);
        prepared.problems.extend(hidden_ports(cli, action).await.err());
    }
    match waiter(in_host, namespace, order) {
        Ok(creation) => prepared.waiter = Some(request(Role::Waiter, creation, None)),
        Err(failure) => prepared.problems.push(failure),
    }
    prepared
}

/// Builds the call that creates the user container.
fn user_container(
    order: &Order<'_>,
    user: &UserOrder<'_>,
    makes_networks: bool,
) -> Result<Creation, NotCarried> {
    let name = Role::User.container_name(&order.action.name);
    let labels = Role::User.labels(&order.origin());
    let (action, own_image) = (&order.action.whole.document, &user.own_image.document);
    let image = user.found.map_or_else(|| user.image.normalized(), |found| found.name.clone());
    let wanted = Wanted { image: &image, name: &name, labels: &labels, arguments: user.arguments };
    flags::user_container(action, own_image, &wanted, &Host { makes_networks })
}

/// Builds the call that creates the waiter.
fn waiter(in_host: bool, namespace: &str, order: &Order<'_>) -> Result<Creation, Failure> {
    let ticket = Ticket {
        engine: EngineTicket::Nerdctl { host: in_host, namespace: namespace.to_owned() },
        duty: order.duty.clone(),
    };
    let argument = ticket.to_argument();
    let action = &order.action.whole.document;
    Ok(waiter_call::waiter(&WaiterParts {
        name: &Role::Waiter.container_name(&order.action.name),
        image: &order.action.whole.image,
        argument: &argument,
        labels: &Role::Waiter.labels(&order.origin()),
        volumes: if in_host { Vec::new() } else { waiter_call::volumes_on(action, &VOLUMES) },
        in_host,
        ends_machine: order.duty.ends_machine(),
        unloads_kernel: order.duty.unloads_kernel(),
        needs_network: order.duty.needs_network(),
    }))
}

/// Refuses the action's published ports, which cannot be published again. nerdctl shows them in the
/// action's document only if it sees the action's process, so this asks if they are missing there.
async fn hidden_ports(cli: &Cli, action: &Value) -> Result<(), Failure> {
    if !spec::made_by_nerdctl(action) || !action["Process"]["NetNS"].is_null() {
        return Ok(());
    }
    let id = action["ID"].as_str().unwrap_or_default();
    let ports =
        cli.ask(&["port", id]).await.context("cannot ask for the action's published ports")?;
    if ports.trim().is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!(
        "cannot publish the action's ports again: {}",
        ports.trim().replace('\n', ", ")
    ))
    .fix("remove them from the action: two containers cannot publish the same port"))
}

/// Returns why the user container cannot have the network of an action that the agent made. The
/// agent starts an action without a network if it cannot make it, and only logs that (v0.25.0,
/// `containerd.go`); nerdctl would not start its container.
async fn why_no_network(order: &Order<'_>, in_host: bool) -> Option<String> {
    let action = &order.action.whole.document;
    if !spec::has_namespace(&action["Spec"], "network") || spec::made_by_nerdctl(action) {
        return None;
    }
    if !order.has_network {
        return Some("the action has none either: its agent could not make one".to_owned());
    }
    network::obstacle("bridge", in_host).await
}

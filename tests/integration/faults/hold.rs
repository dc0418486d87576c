//! Holds a request or a call on its way from an action to its engine, on either engine.

use anyhow::Result;
use lab::machine::Machine;

use super::calls::{Calls, NO_FAULT, Rule};
use super::docker::Proxy;
use crate::world::Action;

/// A request or a call that is held until [`Hold::go`].
pub struct Hold<'a>(Way<'a>);

enum Way<'a> {
    Docker(Proxy),
    Nerdctl(Calls<'a>),
}

impl<'a> Hold<'a> {
    /// Holds the first removal of a container.
    pub fn a_removal(machine: &'a Machine) -> Result<Self> {
        Self::at(machine, ("DELETE", "/containers/", 1), " rm ")
    }

    /// Holds the start of the user container.
    pub fn the_users_start(machine: &'a Machine) -> Result<Self> {
        Self::at(machine, ("POST", "{3}/start", 1), " start ")
    }

    /// Holds the answer to the waiter's start, which is done.
    pub fn the_answer_to_the_waiters_start(machine: &'a Machine) -> Result<Self> {
        Self::with(machine, ("POST", "/start", 1), "run --detach", "hold-after")
    }

    fn at(machine: &'a Machine, request: (&str, &str, usize), call: &str) -> Result<Self> {
        Self::with(machine, request, call, "hold")
    }

    fn with(
        machine: &'a Machine,
        request: (&str, &str, usize),
        call: &str,
        how: &str,
    ) -> Result<Self> {
        if machine.is_docker() {
            return Ok(Self(Way::Docker(Proxy::start(machine, request, how)?)));
        }
        let calls = Calls::install(machine)?;
        calls.prepare(Rule::first(call, how))?;
        Ok(Self(Way::Nerdctl(calls)))
    }

    /// The action, on the path on which the request is held.
    pub fn on_its_way<'b>(&self, action: Action<'b>) -> Action<'b> {
        match &self.0 {
            Way::Docker(proxy) => action.without_socket().volume(proxy.volume()),
            Way::Nerdctl(_) => action,
        }
    }

    /// Waits until it is held.
    pub fn held(&self) -> Result<()> {
        match &self.0 {
            Way::Docker(proxy) => proxy.held(),
            Way::Nerdctl(calls) => calls.held(),
        }
    }

    /// Holds nothing that comes later.
    pub fn no_more(&self) -> Result<()> {
        match &self.0 {
            // Only the current request is held.
            Way::Docker(_) => Ok(()),
            Way::Nerdctl(calls) => calls.rule(NO_FAULT),
        }
    }

    /// Lets it continue.
    pub fn go(&self) -> Result<()> {
        match &self.0 {
            Way::Docker(proxy) => proxy.go(),
            Way::Nerdctl(calls) => calls.go(),
        }
    }
}

//! What a handoff works with.

use crate::choose::Reached;
use crate::error::{Context, Failure};
use crate::login::Login;
use crate::names::HandoffId;
use crate::process::Process;
use crate::settings::Settings;

/// One handoff's inputs, and its mark.
pub struct Job<'a> {
    /// The engine, and its answers to the first queries.
    pub reached: &'a Reached,
    /// Our own process, and the machine.
    pub process: &'a Process,
    /// The action's settings.
    pub settings: &'a Settings,
    /// The login with which `IMAGE` is pulled.
    pub login: Option<Login>,
    /// The mark of this handoff.
    pub id: HandoffId,
}

impl<'a> Job<'a> {
    /// Makes a job with a mark of its own. Without a `login` of the action, it has the one with
    /// which the machine was booted.
    ///
    /// # Errors
    /// If the kernel gives no random bytes.
    pub fn new(
        reached: &'a Reached,
        process: &'a Process,
        settings: &'a Settings,
        login: Option<Login>,
    ) -> Result<Self, Failure> {
        let id = HandoffId::random().context("cannot get random bytes from the kernel")?;
        let line = process.machine.command_line.as_str();
        let of_machine = || settings.image().and_then(|image| Login::of_machine(line, image));
        let login = login.or_else(of_machine);
        Ok(Self { reached, process, settings, login, id })
    }
}

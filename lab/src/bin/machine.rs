//! `machine docker-debian|docker-moby|captain|captain-v1 [COMMAND...]`: boots a throw-away machine with
//! waitdaemon's image, runs the command, or a shell, and ends the machine.
//!
//! The command runs outside the machine. `DOCKER_HOST` is its engine; `$IN` before a command runs it
//! inside, so `$IN nerdctl ps` on CaptainOS.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use lab::captain::{Captain, Init};
use lab::machine::{Engine, Machine};
use lab::nest::Nest;
use lab::paths;

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    let kind = arguments.next().context("name a machine: docker-debian, docker-moby, captain or captain-v1")?;
    let command: Vec<String> = arguments.collect();
    let image = paths::root().join("dist/waitdaemon.tar");
    if let Some(init) = Init::ALL.into_iter().find(|init| init.name() == kind) {
        let captain = Captain::boot_with(init)?;
        captain.load(&image)?;
        return inside(&captain, "", &command);
    }
    let Some(engine) = Engine::ALL.into_iter().find(|engine| engine.name() == kind) else {
        bail!("no machine {kind}: docker-debian, docker-moby, captain or captain-v1");
    };
    let machine = Machine::boot(engine)?;
    machine.load(&image)?;
    inside(&machine, &format!("unix://{}", machine.socket().display()), &command)
}

fn inside(nest: &Nest, docker_host: &str, command: &[String]) -> Result<ExitCode> {
    let shell = [std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".into())];
    let command = if command.is_empty() { &shell[..] } else { command };
    let status = Command::new(&command[0])
        .args(&command[1..])
        .env("DOCKER_HOST", docker_host)
        .env("IN", format!("nsenter -t {} -m -u -i -n -p -C --", nest.init()))
        .env("OUT", nest.out())
        .status()
        .with_context(|| format!("cannot run {}", command[0]))?;
    Ok(ExitCode::from(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1)))
}

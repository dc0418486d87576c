//! The entry point: picks one of the two journeys, and is the only place that sets the exit code.

use std::path::Path;
use std::pin::Pin;
use std::process::ExitCode;

use log::LevelFilter;
use waitdaemon::choose::{choose, start_syslog};
use waitdaemon::engine::Engine;
use waitdaemon::engine::docker::Docker;
use waitdaemon::engine::nerdctl::Nerdctl;
use waitdaemon::error::{Context, Failure, exit};
use waitdaemon::handoff::job::Job;
use waitdaemon::handoff::{self, dry_run};
use waitdaemon::login::Login;
use waitdaemon::process::Process;
use waitdaemon::settings::{Problem, Settings, reader, variables};
use waitdaemon::signals::Signals;
use waitdaemon::ticket::{EngineTicket, Ticket};
use waitdaemon::waiter::{self, Exit};
use waitdaemon::{console, logging, names, syslog};

fn main() -> ExitCode {
    let program = std::env::args_os().next().unwrap_or_default();
    let code = if Path::new(&program) == Path::new(names::WAITER_PROGRAM) {
        run_waiter()
    } else {
        run_action()
    };
    ExitCode::from(code)
}

/// Runs the action container's journey; returns the exit code.
fn run_action() -> u8 {
    let process = Process::current();
    block_on(exit::HANDOFF_FAILED, async {
        let settings =
            match Settings::read(std::env::vars_os(), process.command.get(1..).unwrap_or_default())
            {
                Ok(settings) => settings,
                Err(problems) => return Ok(reject(&problems, &process)),
            };
        logging::start(settings.log, "handoff");
        warn_of_misspelled_variables();
        // Read while we are in our own mount namespace: the password file is the action's.
        let login = match Login::from_settings(&settings) {
            Ok(login) => login,
            Err(failure) => {
                start_syslog(&settings.syslog, &process.machine);
                if settings.dry_run {
                    return Ok(dry_run::failed(&failure));
                }
                logging::failure(&failure);
                return Ok(exit::INVALID_SETTINGS);
            }
        };
        if settings.dry_run {
            return Ok(dry_run::run(&settings, &process, login).await);
        }
        let mut signals = Signals::catch().context("cannot catch signals")?;
        let reached = match choose(&settings, &process).await {
            Ok(reached) => reached,
            Err(failures) => {
                failures.iter().for_each(logging::failure);
                logging::failure(&Failure::new("no container engine can be used"));
                return Ok(exit::NO_ENGINE);
            }
        };
        let job = Job::new(&reached, &process, &settings, login)?;
        match handoff::run(&job, &mut signals).await {
            Ok(()) => Ok(0),
            Err(failures) => {
                failures.iter().for_each(logging::failure);
                Ok(exit::HANDOFF_FAILED)
            }
        }
    })
}

/// Says what is wrong with the settings; returns the exit code.
fn reject(problems: &[Problem], process: &Process) -> u8 {
    logging::start(LevelFilter::Info, "handoff");
    start_syslog(&reader::syslog(std::env::vars_os()), &process.machine);
    if reader::asks_for_dry_run(std::env::vars_os()) {
        return dry_run::invalid(problems);
    }
    for Problem { field, value, problem, fix } in problems {
        log::error!(field = *field, value = value.as_deref(), fix = *fix; "{problem}");
    }
    exit::INVALID_SETTINGS
}

fn warn_of_misspelled_variables() {
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if let Some(warning) = variables::misspelled(&name) {
            log::warn!(field = format!("environment.{name}").as_str(); "{warning}");
        }
    }
}

/// Runs the waiter's journey; returns the exit code.
fn run_waiter() -> u8 {
    let argument = std::env::args().nth(1).unwrap_or_default();
    let ticket = match Ticket::from_argument(&argument) {
        Ok(ticket) => ticket,
        Err(error) => {
            logging::start(LevelFilter::Info, "waiter");
            logging::failure(
                &Failure::new("the waiter is started by waitdaemon, not by hand").cause(error),
            );
            return exit::WAITER_FAILED;
        }
    };
    let Ticket { engine, duty } = ticket;
    logging::start(duty.log, "waiter");
    logging::set_action(&duty.action_name);
    let process = Process::current();
    block_on(exit::WAITER_FAILED, async {
        let mut signals = Signals::catch().context("cannot catch signals")?;
        let engine: Box<dyn Engine> = match engine {
            EngineTicket::Docker { host, socket_after_restart, version } => {
                console::start();
                Box::new(Docker::from_ticket(host, socket_after_restart, version))
            }
            EngineTicket::Nerdctl { host, namespace } => Box::new(Nerdctl::open(host, &namespace)?),
        };
        // If nerdctl is the host's, so is the network by now.
        duty.syslog.iter().for_each(|address| syslog::start(address));
        Ok(match waiter::run(engine.as_ref(), &process, &duty, &mut signals).await {
            Exit::Done => 0,
            Exit::Failed => exit::WAITER_FAILED,
            Exit::Interrupted => exit::INTERRUPTED,
        })
    })
}

/// Runs a journey on this thread; a failure is logged and gives the exit code `failed`.
fn block_on<'a>(failed: u8, journey: impl Future<Output = Result<u8, Failure>> + 'a) -> u8 {
    // Boxed, so that the code that follows exists once.
    let journey: Pin<Box<dyn Future<Output = Result<u8, Failure>> + 'a>> = Box::pin(journey);
    block_on_boxed(failed, journey)
}

fn block_on_boxed(
    failed: u8,
    journey: Pin<Box<dyn Future<Output = Result<u8, Failure>> + '_>>,
) -> u8 {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            logging::failure(&Failure::new("cannot start the event loop").cause(error));
            return failed;
        }
    };
    let code = runtime.block_on(async {
        let result = journey.await;
        let code = result.unwrap_or_else(|failure| {
            logging::failure(&failure);
            failed
        });
        syslog::flush(syslog::FLUSH_LIMIT).await;
        code
    });
    // Do not wait for a name that is still being resolved.
    runtime.shutdown_background();
    code
}

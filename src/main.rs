//! Entry: which of the two journeys, and the only place that sets the exit code.

use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::pin::Pin;
use std::process::ExitCode;

use tracing::Level;
use waitdaemon::choose::choose;
use waitdaemon::engine::Engine;
use waitdaemon::engine::docker::Docker;
use waitdaemon::engine::nerdctl::Nerdctl;
use waitdaemon::error::{Context, Failure, exit};
use waitdaemon::handoff::{self, show};
use waitdaemon::login::Login;
use waitdaemon::machine::namespaces;
use waitdaemon::process::Process;
use waitdaemon::settings::{Problem, Settings, Syslog, reader};
use waitdaemon::signals::Signals;
use waitdaemon::ticket::{EngineTicket, Ticket};
use waitdaemon::waiter::{self, Exit};
use waitdaemon::{console, logging, names, syslog};

fn main() -> ExitCode {
    let program = std::env::args_os().next().unwrap_or_default();
    let code = if Path::new(&program) == Path::new(names::WAITER_PROGRAM) { be_waiter() } else { be_action() };
    ExitCode::from(code)
}

/// The action container's journey; returns the exit code.
fn be_action() -> u8 {
    let process = Process::own();
    let settings = match Settings::read(std::env::vars_os()) {
        Ok(settings) => settings,
        Err(problems) => {
            logging::start(Level::INFO, "handoff");
            if reader::asks_for_dry_run(std::env::vars_os()) {
                return show::invalid(&problems);
            }
            return on_one_thread(exit::INVALID_SETTINGS, async {
                tell_syslog(&reader::syslog(std::env::vars_os()), &process);
                for Problem { field, value, problem, fix } in problems {
                    tracing::error!(field, value, fix, "{problem}");
                }
                Ok(exit::INVALID_SETTINGS)
            });
        }
    };
    logging::start(settings.log.into(), "handoff");
    let names: Vec<_> = std::env::vars_os().map(|(name, _)| name).collect();
    for name in reader::unrecognized(&names) {
        tracing::warn!(field = format!("environment.{name}"), "unknown variable {name}; is it misspelled?");
    }
    // While we are in our own mount namespace: the password's file is the action's.
    let login = match Login::given(&settings) {
        Ok(login) => login,
        Err(failure) if settings.dry_run => return show::failed(&failure),
        Err(failure) => {
            return on_one_thread(exit::INVALID_SETTINGS, async {
                tell_syslog(&settings.syslog, &process);
                Err(failure)
            });
        }
    };
    if settings.dry_run {
        return on_one_thread(exit::HANDOFF_FAILED, async { Ok(show::run(&settings, &process, login).await) });
    }
    on_one_thread(exit::HANDOFF_FAILED, async {
        let mut signals = Signals::catch().context("cannot catch signals")?;
        let reached = match choose(&settings, &process).await {
            Ok(reached) => reached,
            Err(failures) => {
                tell_syslog(&settings.syslog, &process);
                failures.iter().for_each(logging::failure);
                logging::failure(&Failure::new("no container engine can be used"));
                return Ok(exit::NO_ENGINE);
            }
        };
        let keeps_logs = reached.engine.about().keeps_logs;
        let server = syslog::server(&settings.syslog, keeps_logs, &process.command_line);
        server.iter().for_each(|address| syslog::start(address));
        match handoff::run(&reached, &process, &settings, login, &mut signals).await {
            Ok(()) => Ok(0),
            Err(failures) => {
                failures.iter().for_each(logging::failure);
                Ok(exit::HANDOFF_FAILED)
            }
        }
    })
}

/// Before an engine has answered: sends what goes wrong to the OSIE's syslog, but where Docker does, which sends what
/// containers print.
fn tell_syslog(wanted: &Syslog, process: &Process) {
    let socket = Path::new("/var/run/docker.sock");
    let found = |path: &Path| std::fs::metadata(path).is_ok_and(|found| found.file_type().is_socket());
    let docker = found(socket) || namespaces::path_through_init(socket).is_some_and(|path| found(&path));
    if let Some(address) = syslog::server(wanted, !docker, &process.command_line) {
        syslog::start(&address);
    }
}

/// The waiter's journey; returns the exit code.
fn be_waiter() -> u8 {
    let argument = std::env::args().nth(1).unwrap_or_default();
    let ticket = match Ticket::from_argument(&argument) {
        Ok(ticket) => ticket,
        Err(error) => {
            logging::start(Level::INFO, "waiter");
            logging::failure(&Failure::new("the waiter is started by waitdaemon, not by hand").cause(error));
            return exit::WAITER_FAILED;
        }
    };
    let Ticket { engine, duty } = ticket;
    logging::start(duty.log.into(), "waiter");
    logging::set_action(&duty.action_name);
    let process = Process::own();
    on_one_thread(exit::WAITER_FAILED, async {
        let mut signals = Signals::catch().context("cannot catch signals")?;
        let engine: Box<dyn Engine> = match engine {
            EngineTicket::Docker { host, socket_after_restart, version } => {
                console::start();
                Box::new(Docker::from_ticket(host, socket_after_restart, version))
            }
            EngineTicket::Nerdctl { host, namespace } => Box::new(Nerdctl::open(host, &namespace)?),
        };
        // The network is the host's by now, if nerdctl is.
        duty.syslog.iter().for_each(|address| syslog::start(address));
        Ok(match waiter::run(engine.as_ref(), &process, &duty, &mut signals).await {
            Exit::Done => 0,
            Exit::Failed => exit::WAITER_FAILED,
            Exit::Interrupted => exit::INTERRUPTED,
        })
    })
}

/// Runs a journey on this thread; a failure is logged and gives the exit code `failed`.
fn on_one_thread<'a>(failed: u8, journey: impl Future<Output = Result<u8, Failure>> + 'a) -> u8 {
    // The code for what follows is there once.
    let journey: Pin<Box<dyn Future<Output = Result<u8, Failure>> + 'a>> = Box::pin(journey);
    run_to_the_end(failed, journey)
}

fn run_to_the_end(failed: u8, journey: Pin<Box<dyn Future<Output = Result<u8, Failure>> + '_>>) -> u8 {
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
    // A name that is being resolved holds nobody up.
    runtime.shutdown_background();
    code
}

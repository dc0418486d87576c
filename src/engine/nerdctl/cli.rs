//! nerdctl's command line: one function runs it, with nothing of the action's environment.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

use super::registry_access::Access;
use crate::engine::{CHANGE_LIMIT, QUERY_LIMIT};
use crate::retry::milliseconds;

/// Where to look for programs; CaptainOS has nerdctl in /usr/local/bin.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// No garbage collection: a call ends before it would pay, and skipping it saves a tenth of the
/// time (measured). A call that needs more memory collects all the same (Go's runtime,
/// "GOMEMLIMIT").
const NO_GC: [(&str, &str); 2] = [("GOGC", "off"), ("GOMEMLIMIT", "64MiB")];

/// nerdctl in one namespace of containerd. Each call is made once.
#[derive(Debug, Clone)]
pub struct Cli {
    program: &'static str,
    namespace: String,
    access: Access,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The program could not be run.
    #[error("cannot run nerdctl")]
    Run(#[source] std::io::Error),
    /// nerdctl refused, in its own words.
    #[error("{message}")]
    Refused {
        /// The last fatal line of its standard error.
        message: String,
    },
    /// It ended without a message, perhaps killed.
    #[error("nerdctl {call} exited without a message ({status})")]
    Mute {
        /// The subcommand.
        call: String,
        /// How it ended.
        status: std::process::ExitStatus,
    },
    /// It printed nothing instead of an ID.
    #[error("nerdctl {call} printed nothing")]
    Empty {
        /// The subcommand.
        call: String,
    },
    /// It did not end in time.
    #[error("nerdctl {call} took more than {seconds} s")]
    Late {
        /// The subcommand.
        call: String,
        /// The limit.
        seconds: u64,
    },
    /// It printed documents without a part that it could not read.
    #[error("nerdctl {call} could not read everything: {message}")]
    Partial {
        /// The subcommand.
        call: String,
        /// Its warning.
        message: String,
    },
    /// It printed something other than JSON.
    #[error("nerdctl {call} did not print JSON")]
    NotJson {
        /// The subcommand.
        call: String,
        /// Where the JSON is invalid.
        source: serde_json::Error,
    },
}

impl Cli {
    /// Creates a client for `program`, a path or a name in [`PATH`], in containerd's `namespace`.
    pub fn new(program: &'static str, namespace: &str) -> Self {
        Self { program, namespace: namespace.to_owned(), access: Access::default() }
    }

    /// True if a program of this name is in [`PATH`].
    pub fn is_installed(program: &str) -> bool {
        PATH.split(':').any(|folder| Path::new(folder).join(program).exists())
    }

    /// Returns the same client, for calls that reach a registry. `config` is a folder with Docker's
    /// configuration, which holds a login. Not for calls that create: they would store the
    /// environment.
    pub fn for_registry(&self, access: &Access, config: Option<&Path>) -> Self {
        let mut access = access.clone();
        access
            .environment
            .extend(config.map(|folder| ("DOCKER_CONFIG", folder.display().to_string())));
        Self { access, ..self.clone() }
    }

    /// Runs a subcommand that changes nothing; returns its standard output.
    ///
    /// # Errors
    /// If the call fails, with any [`CliError`] but [`CliError::NotJson`].
    pub async fn ask(&self, arguments: &[&str]) -> Result<String, CliError> {
        Ok(self.call(QUERY_LIMIT, arguments, "").await?.printed)
    }

    /// Runs a subcommand that changes something, with `input` on its standard input; returns its
    /// standard output.
    ///
    /// # Errors
    /// As [`Cli::ask`].
    pub async fn run(&self, arguments: &[&str], input: &str) -> Result<String, CliError> {
        Ok(self.call(CHANGE_LIMIT, arguments, input).await?.printed)
    }

    /// Runs a subcommand whose time the caller limits.
    ///
    /// # Errors
    /// As [`Cli::ask`].
    pub async fn run_without_limit(&self, arguments: &[&str]) -> Result<(), CliError> {
        self.call(Duration::MAX, arguments, "").await.map(drop)
    }

    /// Runs a subcommand that may end this very process and then goes on without it: its output
    /// need not be read. A program written in Go ends when it writes to a pipe that nobody reads
    /// (os/signal, "SIGPIPE"), and a removal that ends halfway keeps the container's name.
    ///
    /// # Errors
    /// If the call fails ([`CliError::Run`], [`CliError::Mute`], [`CliError::Late`]).
    pub async fn run_alone(&self, arguments: &[&str]) -> Result<(), CliError> {
        let call = subcommand(arguments);
        let mut command = self.command(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let late = CliError::Late { call: call.clone(), seconds: CHANGE_LIMIT.as_secs() };
        let ended = timeout(CHANGE_LIMIT, command.status()).await.map_err(|_| late)?;
        let status = ended.map_err(CliError::Run)?;
        if status.success() { Ok(()) } else { Err(CliError::Mute { call, status }) }
    }

    /// Returns the program with these arguments. Its environment is PATH alone, because nerdctl
    /// stores it in the hooks of a container that it creates, and some variables change what it
    /// does (observed). Other calls have [`NO_GC`] too.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.program);
        command.env_clear().env("PATH", PATH);
        if !arguments.first().is_some_and(|call| ["create", "run"].contains(call)) {
            command.envs(NO_GC);
        }
        command.envs(self.access.environment.iter().map(|(name, value)| (name, value)));
        command.args(["--namespace", &self.namespace]);
        command.args(
            self.access
                .hosts
                .iter()
                .flat_map(|folder| [OsStr::new("--hosts-dir"), folder.as_os_str()]),
        );
        command.args(arguments);
        command
    }

    async fn call(
        &self,
        limit: Duration,
        arguments: &[&str],
        input: &str,
    ) -> Result<Said, CliError> {
        let call = subcommand(arguments);
        let mut command = self.command(arguments);
        command.kill_on_drop(true);
        command.stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let late = CliError::Late { call: call.clone(), seconds: limit.as_secs() };
        let begin = Instant::now();
        let run = async {
            let mut child = command.spawn()?;
            let stdin = child.stdin.take();
            let write = async move {
                if let Some(mut stdin) = stdin {
                    // If nerdctl stops reading, its own words say why.
                    let _ = stdin.write_all(input.as_bytes()).await;
                }
            };
            let (output, ()) = tokio::join!(child.wait_with_output(), write);
            output
        };
        let output = timeout(limit, run).await.map_err(|_| late)?.map_err(CliError::Run)?;
        let milliseconds = milliseconds(begin.elapsed());
        log::debug!(call = call.as_str(), success = output.status.success(), milliseconds; "asked nerdctl");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let warnings = text(&output.stderr);
        if output.status.success() {
            return Ok(Said { printed: text(&output.stdout), warnings });
        }
        let message = fatal(&warnings);
        Err(if message.is_empty() || output.status.code().is_none() {
            CliError::Mute { call, status: output.status }
        } else {
            CliError::Refused { message }
        })
    }

    /// Runs a subcommand that prints JSON: an array, or one document per line. Only objects count.
    ///
    /// # Errors
    /// If the call fails, prints no JSON, or could not read a part that decides.
    pub async fn documents(&self, arguments: &[&str]) -> Result<Vec<Value>, CliError> {
        let said = self.call(QUERY_LIMIT, arguments, "").await?;
        let call = subcommand(arguments);
        if let Some(line) = unread(&said.warnings) {
            return Err(CliError::Partial { call, message: line.to_owned() });
        }
        documents(&said.printed).map_err(|source| CliError::NotJson { call, source })
    }
}

/// What a call that succeeded printed, on standard output and on standard error.
struct Said {
    printed: String,
    warnings: String,
}

/// Returns the warning about a part of a document that could not be read and decides something. The
/// document then looks as if the container had no process, or the image no configuration (nerdctl
/// 2.2.1, pkg/containerinspector and pkg/imageinspector). Pure.
fn unread(warnings: &str) -> Option<&str> {
    const DECIDING: [&str; 4] = [
        "failed to inspect Spec",
        "failed to inspect Task",
        "failed to inspect Status",
        "failed to inspect image config",
    ];
    warnings.lines().find(|line| DECIDING.iter().any(|words| line.contains(words)))
}

/// Returns the objects in what nerdctl printed. Pure.
fn documents(text: &str) -> serde_json::Result<Vec<Value>> {
    let found: serde_json::Result<Vec<Value>> =
        serde_json::Deserializer::from_str(text).into_iter().collect();
    let flat = found?
        .into_iter()
        .flat_map(|value| if let Value::Array(all) = value { all } else { vec![value] });
    Ok(flat.filter(Value::is_object).collect())
}

/// Returns nerdctl's last message at level fatal, unquoted; else its last line (logrus' text form).
/// Pure.
fn fatal(stderr: &str) -> String {
    let line =
        stderr.lines().rfind(|line| line.contains("level=fatal")).or_else(|| stderr.lines().last());
    let line = line.unwrap_or_default();
    let Some((_, message)) = line.split_once("msg=") else { return line.trim().to_owned() };
    if !message.starts_with('"') {
        return message.trim().to_owned();
    }
    // logrus quotes as Go does; if that is not JSON, the line is shown as it is.
    serde_json::Deserializer::from_str(message)
        .into_iter::<String>()
        .next()
        .and_then(Result::ok)
        .unwrap_or_else(|| message.to_owned())
}

/// Returns the subcommand, as errors and the debug log show it.
fn subcommand(arguments: &[&str]) -> String {
    arguments.iter().take(2).copied().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fatal_line_is_the_message() {
        let text = "time=\"2026-11-22T18:57:00Z\" level=warning msg=\"failed to inspect NetNS\" id=x\n\
                    time=\"2026-11-22T18:57:00Z\" level=fatal msg=\"1 errors:\\nno such container: nope\"\n";
        assert_eq!(fatal(text), "1 errors:\nno such container: nope");
        assert_eq!(fatal("level=fatal msg=short"), "short");
        assert_eq!(fatal("plain words\n"), "plain words");
        assert_eq!(fatal(""), "");
    }

    #[test]
    fn only_objects_are_documents() {
        assert_eq!(documents("[{\"a\":1},null,[2],\"x\"]\n{\"b\":2}\n3\n").unwrap().len(), 2);
        assert!(documents("").unwrap().is_empty());
        assert!(documents("<html>").is_err());
    }
}

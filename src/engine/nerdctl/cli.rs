//! nerdctl's command line: one function that runs it, with nothing of the action's environment.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

use crate::retry::{Stumble, Worth, patiently};

/// Where programs are searched; CaptainOS has nerdctl in /usr/local/bin.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The longest that a question may take, which is asked again; 30 to 45 ms are usual, 10 s when containerd
/// hangs (observed).
const QUESTION_LIMIT: Duration = Duration::from_secs(15);
/// The longest that a call may take that changes something; what became of it is looked for then.
const CHANGE_LIMIT: Duration = Duration::from_secs(30);
/// How often a list is asked for again that a deletion has spoilt.
const LIST_TRIES: u32 = 20;

/// nerdctl in one namespace of containerd, and for how long a question is asked again where it stumbles.
#[derive(Debug, Clone)]
pub struct Cli {
    program: &'static str,
    namespace: String,
    patience: Duration,
    config: Option<PathBuf>,
}

/// Why a call gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The program could not be run.
    #[error("cannot run nerdctl")]
    Run(#[source] std::io::Error),
    /// It said no; this is its own word.
    #[error("{message}")]
    Refused {
        /// The last fatal line of its standard error.
        message: String,
    },
    /// It ended without a word, perhaps killed.
    #[error("nerdctl {call} ended without a word ({status})")]
    Mute {
        /// The subcommand.
        call: String,
        /// How it ended.
        status: std::process::ExitStatus,
    },
    /// It printed nothing where it prints an ID.
    #[error("nerdctl {call} printed nothing")]
    Empty {
        /// The subcommand.
        call: String,
    },
    /// No end in time.
    #[error("nerdctl {call} took more than {seconds} s")]
    Late {
        /// The subcommand.
        call: String,
        /// The limit.
        seconds: u64,
    },
    /// It printed something else than JSON.
    #[error("nerdctl {call} printed no JSON")]
    NotJson {
        /// The subcommand.
        call: String,
        /// Where the JSON is wrong.
        source: serde_json::Error,
    },
}

impl CliError {
    /// True where what was asked about does not exist (nerdctl 2.2.1: `no such container`; containerd,
    /// where it is deleted at that moment: `container "ID" in namespace "NAME": not found`).
    pub fn is_missing(&self) -> bool {
        let gone = |line: &str| line.starts_with("container \"") && line.ends_with(": not found");
        matches!(self, Self::Refused { message } if message.contains("no such container") || message.lines().any(gone))
    }
}

impl Stumble for CliError {
    fn worth(&self) -> Worth {
        let passing = [
            // A static address is free when the action's container is removed (CNI's host-local).
            "is not available in range set",
            // containerd is away.
            "connection refused",
            "cannot access containerd socket",
            "Unavailable",
            "connection error",
            "deadline exceeded",
        ];
        match self {
            Self::Refused { message } if passing.iter().any(|word| message.contains(word)) => Worth::Long,
            Self::Late { .. } => Worth::Long,
            Self::Mute { .. } | Self::NotJson { .. } | Self::Empty { .. } => Worth::Few,
            Self::Refused { .. } | Self::Run(_) => Worth::Nothing,
        }
    }
}

/// An error of a question, which can be asked again where nobody can tell what the error means.
struct Asked(CliError);

impl std::fmt::Display for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl Stumble for Asked {
    fn worth(&self) -> Worth {
        match (&self.0, self.0.worth()) {
            (CliError::Refused { .. }, Worth::Nothing) if !self.0.is_missing() => Worth::Few,
            (_, worth) => worth,
        }
    }
}

impl Cli {
    /// The `program`, a path or a name in [`PATH`], in containerd's `namespace`.
    pub fn new(program: &'static str, namespace: &str, patience: Duration) -> Self {
        Self { program, namespace: namespace.to_owned(), patience, config: None }
    }

    /// The same, with another patience.
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// The same, with Docker's configuration in this folder: it has a registry's login. Not for what creates, which
    /// would store the folder's name.
    pub fn with_config(&self, folder: &Path) -> Self {
        Self { config: Some(folder.to_owned()), ..self.clone() }
    }

    /// Runs a subcommand once and returns its standard output.
    ///
    /// # Errors
    /// Every [`CliError`] but [`CliError::NotJson`].
    pub async fn run(&self, arguments: &[&str]) -> Result<String, CliError> {
        self.call(CHANGE_LIMIT, arguments, "").await
    }

    /// Runs a subcommand that can be run twice, again where it stumbles; returns its standard output.
    ///
    /// # Errors
    /// Every [`CliError`] but [`CliError::NotJson`].
    pub async fn ask(&self, arguments: &[&str]) -> Result<String, CliError> {
        let ask = || async { self.call(QUESTION_LIMIT, arguments, "").await.map_err(Asked) };
        patiently(self.patience, "a question to nerdctl", ask).await.map_err(|Asked(error)| error)
    }

    /// As [`Cli::run`], with a limit of its own.
    ///
    /// # Errors
    /// As [`Cli::run`].
    pub async fn run_within(&self, limit: Duration, arguments: &[&str]) -> Result<String, CliError> {
        self.call(limit, arguments, "").await
    }

    /// As [`Cli::run`], with something to read on its standard input.
    ///
    /// # Errors
    /// As [`Cli::run`].
    pub async fn run_with_input(&self, arguments: &[&str], input: &str) -> Result<String, CliError> {
        self.call(CHANGE_LIMIT, arguments, input).await
    }

    /// Runs a subcommand once that may end this very process and goes on without it: nobody needs to read what it
    /// says. A program written in Go ends when it writes to a pipe that nobody reads (os/signal, "SIGPIPE"), and a
    /// removal that ends half-way keeps the container's name.
    ///
    /// # Errors
    /// [`CliError::Run`], [`CliError::Mute`], [`CliError::Late`].
    pub async fn run_alone(&self, arguments: &[&str]) -> Result<(), CliError> {
        let call = subcommand(arguments);
        let mut command = self.command(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let late = CliError::Late { call: call.clone(), seconds: CHANGE_LIMIT.as_secs() };
        let ended = timeout(CHANGE_LIMIT, command.status()).await.map_err(|_| late)?;
        let status = ended.map_err(CliError::Run)?;
        if status.success() { Ok(()) } else { Err(CliError::Mute { call, status }) }
    }

    /// The IDs of the containers that these flags of `ps` select.
    ///
    /// # Errors
    /// As [`Cli::run`].
    pub async fn list(&self, flags: &[&str]) -> Result<Vec<String>, CliError> {
        let mut tries = 0;
        loop {
            match self.ask(&[&["ps", "--quiet", "--no-trunc"], flags].concat()).await {
                Ok(text) => return Ok(text.lines().map(str::to_owned).collect()),
                // nerdctl 2.2.1 fails where any container is deleted while it lists them.
                Err(CliError::Refused { message }) if message.contains("not found") && tries < LIST_TRIES => tries += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// The program with these arguments. Whatever nerdctl has in its environment is stored in the container's hooks,
    /// and some of it changes what it does (observed): it gets PATH alone.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.program);
        command.env_clear().env("PATH", PATH);
        command.envs(self.config.iter().map(|folder| ("DOCKER_CONFIG", folder)));
        command.args(["--namespace", &self.namespace]).args(arguments);
        command
    }

    async fn call(&self, limit: Duration, arguments: &[&str], input: &str) -> Result<String, CliError> {
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
                    // Where nerdctl reads no more, its own words say why.
                    let _ = stdin.write_all(input.as_bytes()).await;
                }
            };
            let (output, ()) = tokio::join!(child.wait_with_output(), write);
            output
        };
        let output = timeout(limit, run).await.map_err(|_| late)?.map_err(CliError::Run)?;
        let milliseconds = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::debug!(call, success = output.status.success(), milliseconds, "asked nerdctl");
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let message = fatal(&String::from_utf8_lossy(&output.stderr));
        Err(if message.is_empty() || output.status.code().is_none() {
            CliError::Mute { call, status: output.status }
        } else {
            CliError::Refused { message }
        })
    }

    /// Asks with a subcommand that prints JSON: an array, or a document a line.
    ///
    /// # Errors
    /// Every [`CliError`].
    pub async fn documents(&self, arguments: &[&str]) -> Result<Vec<Value>, CliError> {
        let ask = || async { self.documents_once(arguments).await.map_err(Asked) };
        patiently(self.patience, "a question to nerdctl", ask).await.map_err(|Asked(error)| error)
    }

    /// As [`Cli::documents`], for what is there: no document at all is no answer.
    ///
    /// # Errors
    /// Every [`CliError`].
    pub async fn document(&self, arguments: &[&str]) -> Result<Value, CliError> {
        let [document] = self.first(arguments).await?;
        Ok(document)
    }

    /// The first documents, of which that many must be there.
    async fn first<const COUNT: usize>(&self, arguments: &[&str]) -> Result<[Value; COUNT], CliError> {
        let ask = || async {
            let found = self.documents_once(arguments).await.map_err(Asked)?;
            let first: Vec<Value> = found.into_iter().take(COUNT).collect();
            first.try_into().map_err(|_| Asked(CliError::Empty { call: subcommand(arguments) }))
        };
        patiently(self.patience, "a question to nerdctl", ask).await.map_err(|Asked(error)| error)
    }

    /// ID, labels and process of two containers, which is little of their native documents.
    ///
    /// # Errors
    /// Every [`CliError`]; see [`CliError::is_missing`].
    pub async fn states(&self, containers: [&str; 2]) -> Result<[Value; 2], CliError> {
        let little = r#"{"ID":{{json .ID}},"Labels":{{json .Labels}},"Process":{{json .Process}}}"#;
        let [one, other] = containers;
        self.first(&["container", "inspect", "--mode=native", "--format", little, one, other]).await
    }

    async fn documents_once(&self, arguments: &[&str]) -> Result<Vec<Value>, CliError> {
        let text = self.call(QUESTION_LIMIT, arguments, "").await?;
        let documents: Result<Vec<Value>, _> = serde_json::Deserializer::from_str(&text).into_iter().collect();
        let call = subcommand(arguments);
        let documents = documents.map_err(|source| CliError::NotJson { call, source })?;
        Ok(documents
            .into_iter()
            .flat_map(|value| if let Value::Array(all) = value { all } else { vec![value] })
            .collect())
    }

    /// A container's native document: ID, labels, image, OCI spec, process.
    ///
    /// # Errors
    /// Every [`CliError`]; see [`CliError::is_missing`].
    pub async fn inspect(&self, container: &str) -> Result<Value, CliError> {
        self.document(&["container", "inspect", "--mode=native", container]).await
    }
}

/// What nerdctl says last at level fatal, unquoted; else its last line (logrus' text form).
fn fatal(stderr: &str) -> String {
    let line = stderr.lines().rfind(|line| line.contains("level=fatal")).or_else(|| stderr.lines().last());
    let line = line.unwrap_or_default();
    let Some((_, message)) = line.split_once("msg=") else { return line.trim().to_owned() };
    if !message.starts_with('"') {
        return message.trim().to_owned();
    }
    // logrus quotes as Go does; where that is not JSON the line is shown as it is.
    serde_json::Deserializer::from_str(message)
        .into_iter::<String>()
        .next()
        .and_then(Result::ok)
        .unwrap_or_else(|| message.to_owned())
}

/// The subcommand, as errors and the debug log show it.
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
        assert!(CliError::Refused { message: fatal(text) }.is_missing());
        let refused = |message: &str| CliError::Refused { message: message.into() };
        assert!(refused("1 errors:\ncontainer \"ab\" in namespace \"tinkerbell\": not found").is_missing());
        assert!(!refused("1 errors:\nimage \"ab\": not found").is_missing());
    }
}

//! nerdctl's command line: one function that runs it, with nothing of the action's environment.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

/// Where programs are searched; CaptainOS has nerdctl in /usr/local/bin.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The longest that a question may take; 30 to 45 ms are usual, 10 s when containerd
/// hangs (observed).
const QUESTION_LIMIT: Duration = Duration::from_secs(15);
/// The longest that a call may take that changes something; what became of it is looked for then.
const CHANGE_LIMIT: Duration = Duration::from_secs(30);

/// nerdctl in one namespace of containerd. Each call is made once.
#[derive(Debug, Clone)]
pub struct Cli {
    program: &'static str,
    namespace: String,
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

impl Cli {
    /// The `program`, a path or a name in [`PATH`], in containerd's `namespace`.
    pub fn new(program: &'static str, namespace: &str) -> Self {
        Self { program, namespace: namespace.to_owned(), config: None }
    }

    /// True if a program of this name is where the host's programs are searched.
    pub fn is_installed(program: &str) -> bool {
        PATH.split(':').any(|folder| Path::new(folder).join(program).exists())
    }

    /// The same, with Docker's configuration in this folder: it has a registry's login. Not for what creates, which
    /// would store the folder's name.
    pub fn with_config(&self, folder: &Path) -> Self {
        Self { config: Some(folder.to_owned()), ..self.clone() }
    }

    /// Asks a subcommand that changes nothing; returns its standard output.
    ///
    /// # Errors
    /// Every [`CliError`] but [`CliError::NotJson`].
    pub async fn ask(&self, arguments: &[&str]) -> Result<String, CliError> {
        self.call(QUESTION_LIMIT, arguments, "").await
    }

    /// Runs a subcommand that changes something; returns its standard output. `input` is what it reads on its standard
    /// input.
    ///
    /// # Errors
    /// As [`Cli::ask`].
    pub async fn run(&self, arguments: &[&str], input: &str) -> Result<String, CliError> {
        self.call(CHANGE_LIMIT, arguments, input).await
    }

    /// Runs a subcommand whose time the caller limits.
    ///
    /// # Errors
    /// As [`Cli::ask`].
    pub async fn run_without_limit(&self, arguments: &[&str]) -> Result<(), CliError> {
        self.call(Duration::MAX, arguments, "").await.map(drop)
    }

    /// Runs a subcommand that may end this very process and goes on without it: nobody needs to read what it
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
                    // If nerdctl reads no more, its own words say why.
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

    /// Asks a subcommand that prints JSON: an array, or a document a line. Only objects count.
    ///
    /// # Errors
    /// Every [`CliError`].
    pub async fn documents(&self, arguments: &[&str]) -> Result<Vec<Value>, CliError> {
        let text = self.ask(arguments).await?;
        let call = subcommand(arguments);
        documents(&text).map_err(|source| CliError::NotJson { call, source })
    }
}

/// The objects in what nerdctl printed. Pure.
fn documents(text: &str) -> serde_json::Result<Vec<Value>> {
    let found: serde_json::Result<Vec<Value>> = serde_json::Deserializer::from_str(text).into_iter().collect();
    let flat = found?.into_iter().flat_map(|value| if let Value::Array(all) = value { all } else { vec![value] });
    Ok(flat.filter(Value::is_object).collect())
}

/// What nerdctl says last at level fatal, unquoted; else its last line (logrus' text form). Pure.
fn fatal(stderr: &str) -> String {
    let line = stderr.lines().rfind(|line| line.contains("level=fatal")).or_else(|| stderr.lines().last());
    let line = line.unwrap_or_default();
    let Some((_, message)) = line.split_once("msg=") else { return line.trim().to_owned() };
    if !message.starts_with('"') {
        return message.trim().to_owned();
    }
    // logrus quotes as Go does; if that is not JSON the line is shown as it is.
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
    }

    #[test]
    fn only_objects_are_documents() {
        assert_eq!(documents("[{\"a\":1},null,[2],\"x\"]\n{\"b\":2}\n3\n").unwrap().len(), 2);
        assert!(documents("").unwrap().is_empty());
        assert!(documents("<html>").is_err());
    }
}

//! What all cases share: a machine with images, an action run in it, and looking at what came of it.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lab::image::{self, Entry};
use lab::machine::{Engine, Event, Machine, Variant, output};
use lab::paths;
use lab::until::until;
use serde_json::{Value, json};

/// The action container's name in cases without the agent, formed as the agent forms it.
pub const ACTION: &str = "tinkerbell_last_a0";
/// The waiter's name.
pub const WAITER: &str = "tinkerbell_last_a0-waiter";
/// The user container's name.
pub const USER: &str = "tinkerbell_last_a0-user";
/// The volume that Docker needs.
pub const SOCKET: &str = "/var/run/docker.sock:/var/run/docker.sock";
/// Longer than anything here takes on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Where the archives of the user images are.
pub fn images() -> PathBuf {
    paths::root().join("target/images")
}

/// The archive with waitdaemon's image; a negative control puts another one here.
pub fn own_image() -> PathBuf {
    std::env::var_os("WAITDAEMON_TAR").map_or_else(|| paths::root().join("dist/waitdaemon.tar"), PathBuf::from)
}

/// The program that is in it.
pub fn own_program() -> PathBuf {
    let built = || paths::root().join("target/x86_64-unknown-linux-musl/release/waitdaemon");
    std::env::var_os("WAITDAEMON_PROGRAM").map_or_else(built, PathBuf::from)
}

/// Makes the user images once, before the cases run.
pub fn make_images() -> Result<()> {
    image::busybox(&images().join("alpine.tar"), "alpine:latest", &json!({"Cmd": ["/bin/sh"]}), &[])?;
    // Stands in for the kexec action's image: like a real kexec it does not return.
    let script = "#!/bin/sh\necho \"kexec stand-in: $BLOCK_DEVICE $FS_TYPE\"\nexec sleep 1000\n";
    let entry = Entry::Text("kexec.sh", 0o755, script.into());
    let kexec = "quay.io/tinkerbell-actions/kexec:v1.0.0";
    image::busybox(&images().join("kexec.tar"), kexec, &json!({"Entrypoint": ["/kexec.sh"]}), &[entry])?;
    // Runs under our program's name and does nothing.
    let idle = Entry::Text("waitdaemon", 0o755, "#!/bin/sh\nexec sleep 1000\n".into());
    image::busybox(&images().join("decoy.tar"), "decoy:1", &json!({"Entrypoint": ["/waitdaemon"]}), &[idle])?;
    let config = json!({"Cmd": ["sh", "-c", "echo from the image > /out/cmd"]});
    image::busybox(&images().join("cmd.tar"), "with-cmd:1", &config, &[])
}

/// True for a row or a step whose name has the words of `ONLY`, where a negative control set it.
pub fn is_meant(name: &str) -> bool {
    std::env::var("ONLY").map_or(true, |words| name.contains(&words))
}

/// A booted machine with waitdaemon's image and `alpine`.
pub fn machine(engine: Engine) -> Result<Machine> {
    machine_variant(engine, Variant::Usual)
}

/// As [`machine`], with something unusual.
pub fn machine_variant(engine: Engine, variant: Variant) -> Result<Machine> {
    let machine = Machine::boot_variant(engine, variant)?;
    machine.load(&own_image())?;
    machine.docker(&["tag", "waitdaemon:dev", "ghcr.io/waitdaemon/waitdaemon:latest"])?;
    machine.load(&images().join("alpine.tar"))?;
    Ok(machine)
}

/// Loads one more of the images of [`make_images`].
pub fn load(machine: &Machine, name: &str) -> Result<()> {
    machine.load(&images().join(format!("{name}.tar")))
}

/// How an action is run: as the agent runs it, plus or minus what a case wants.
pub struct Action<'a> {
    machine: &'a Machine,
    flags: Vec<String>,
    socket: bool,
    command: Vec<String>,
}

impl<'a> Action<'a> {
    /// Privileged, with the host's PIDs and the engine's socket.
    pub fn new(machine: &'a Machine) -> Self {
        let flags = ["--privileged", "--pid", "host"].map(str::to_owned).into();
        Self { machine, flags, socket: true, command: Vec::new() }
    }

    /// Adds a variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.flags.extend(["-e".into(), format!("{name}={value}")]);
        self
    }

    /// Adds flags of `docker run`.
    pub fn flags(mut self, flags: &[&str]) -> Self {
        self.flags.extend(flags.iter().map(|flag| (*flag).to_owned()));
        self
    }

    /// Leaves the engine's socket out.
    pub fn without_socket(mut self) -> Self {
        self.socket = false;
        self
    }

    /// With PIDs of its own instead of the host's.
    pub fn with_own_pids(mut self) -> Self {
        self.flags.retain(|flag| flag != "--pid" && flag != "host");
        self
    }

    /// Sets the arguments.
    pub fn command(mut self, command: &[&str]) -> Self {
        self.command = command.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    fn docker_run(&self, detached: bool) -> Command {
        let mut run = self.machine.docker_command();
        run.args(["run", "--name", ACTION]).args(&self.flags);
        if self.socket {
            run.args(["-v", SOCKET]);
        }
        if detached {
            run.arg("-d");
        }
        run.arg("waitdaemon:dev").args(&self.command);
        run
    }

    /// Runs the action to its end and removes its container, as the agent does.
    pub fn run(&self) -> Result<Said> {
        let result = output(&mut self.docker_run(false))?;
        self.machine.docker(&["rm", "-f", ACTION])?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Said { code: result.status.code().unwrap_or(-1), out: text(result.stdout), err: text(result.stderr) })
    }

    /// Runs the action to its end, which must be exit code 0.
    pub fn run_well(&self) -> Result<Said> {
        let said = self.run()?;
        ensure!(said.code == 0, "the handoff failed: {said:?}");
        Ok(said)
    }

    /// Starts the action and does not wait for it.
    pub fn start(&self) -> Result<()> {
        let status = self.docker_run(true).stdout(Stdio::null()).status()?;
        ensure!(status.success(), "docker run -d: {status}");
        Ok(())
    }
}

/// What a finished action left behind as words.
#[derive(Debug)]
pub struct Said {
    /// Its exit code.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Said {
    /// The error line about a template field: `message`, `error` and `fix` in one text.
    pub fn about(&self, field: &str) -> Result<String> {
        let lines = self.err.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut lines = lines.filter(|line| line["level"] == "ERROR" && line["field"] == field);
        let line = lines.next().with_context(|| format!("no ERROR line about {field}: {self:?}"))?;
        ensure!(line["fix"].as_str().is_some_and(|fix| !fix.is_empty()), "no fix: {line}");
        Ok(format!("{} {} {}", line["message"], line["error"], line["fix"]))
    }

    /// Asserts the exit code and that an error line names the field and holds `words`.
    pub fn expect(&self, code: i32, field: &str, words: &str) -> Result<()> {
        ensure!(self.code == code, "exit code {}, not {code}: {self:?}", self.code);
        let text = self.about(field)?;
        ensure!(text.contains(words), "{text:?} lacks {words:?}");
        Ok(())
    }
}

/// The lines of a container's log that are JSON, by stream: standard output, standard error.
pub fn log(machine: &Machine, container: &str) -> Result<(Vec<Value>, Vec<Value>)> {
    let said = output(machine.docker_command().args(["logs", container]))?;
    let lines = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    Ok((lines(&said.stdout), lines(&said.stderr)))
}

/// The address of the host in the action's usual network.
pub fn host(machine: &Machine) -> Result<String> {
    let said = output(machine.command("ip").args(["-4", "-oneline", "address", "show", "docker0"]))?;
    let said = String::from_utf8(said.stdout)?;
    let address = said.split_whitespace().skip_while(|word| *word != "inet").nth(1);
    let address = address.and_then(|all| all.split('/').next());
    Ok(address.with_context(|| format!("docker0 has no address: {said}"))?.to_owned())
}

/// The first event of a container.
pub fn event(machine: &Machine, action: &str, name: &str) -> Result<Option<Event>> {
    Ok(machine.events()?.into_iter().find(|event| event.action == action && event.name == name))
}

/// Waits for an event of a container.
pub fn await_event(machine: &Machine, action: &str, name: &str) -> Result<Event> {
    until(&format!("{action} of {name}"), LIMIT, || event(machine, action, name))
        .with_context(|| format!("events: {:#?}", machine.events()))
}

/// How often something happened to a container.
pub fn count(machine: &Machine, action: &str, name: &str) -> Result<usize> {
    Ok(machine.events()?.iter().filter(|event| event.action == action && event.name == name).count())
}

/// Waits until no container is left.
pub fn nothing_left(machine: &Machine) -> Result<()> {
    let gone = until("no container", LIMIT, || Ok(machine.ids()?.is_empty().then_some(())));
    gone.with_context(|| machine.docker(&["ps", "-a"]).unwrap_or_default())
}

/// Asserts that no container is there now.
pub fn nothing_there(machine: &Machine) -> Result<()> {
    let there = machine.docker(&["ps", "-a", "--format", "{{.Names}} {{.Status}}"])?;
    ensure!(there.is_empty(), "containers are left: {there}");
    Ok(())
}

/// Asserts that the user container started exactly once, and not before `wait` after the action's end.
pub fn started_once_after(machine: &Machine, wait: f64) -> Result<()> {
    let (end, start) = (await_event(machine, "die", ACTION)?, await_event(machine, "start", USER)?);
    ensure!(end.exit_code == Some(0), "the action ended with {:?}", end.exit_code);
    let waited = start.time - end.time;
    ensure!(waited >= wait, "started {waited:.3} s after the action's end, not {wait} s");
    // Generous: a busy machine starts containers slowly.
    ensure!(waited < wait + 5.0, "started only {waited:.3} s after the action's end");
    let starts = count(machine, "start", USER)?;
    ensure!(starts == 1, "started {starts} times");
    Ok(())
}

/// Waits for the end of a container and returns its exit code.
pub fn exit_code(machine: &Machine, name: &str) -> Result<i32> {
    match await_event(machine, "die", name)?.exit_code {
        Some(code) => Ok(code),
        None => bail!("{name} died without an exit code"),
    }
}

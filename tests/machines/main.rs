//! waitdaemon on machines that boot for real, to the reboot or the next kernel, run by the real Tink Agent. `make test-machines`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use lab::image::{self, Entry};
use lab::paths;
use lab::until::until;
use lab::vm::{End, Osie, Vm, free_port};
use lab::watch::Watch;
use libtest_mimic::{Arguments, Trial};
use serde_json::{Value, json};

/// How long what a machine needs beside it may take to be there.
const START_LIMIT: Duration = Duration::from_secs(20);
/// From power-on to the action's report; 40 s are usual, and two machines share two processors.
const REPORT_LIMIT: Duration = Duration::from_secs(240);
/// From there to the machine's end.
const END_LIMIT: Duration = Duration::from_secs(120);
/// WAIT_SECONDS where nothing is said.
const USUAL_WAIT: f64 = 10.0;
/// One beside which it does not count how long an engine here takes to start a container, 1 to 6 s.
const LONG_WAIT: f64 = 30.0;
/// A machine that shall stay up is watched for so long after its `reboot` ended; a reboot by systemd is asked for after 3 s.
const STAYS_UP: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // A machine keeps one processor busy.
    arguments.test_threads = arguments.test_threads.or(Some(2));
    if let Err(error) = make_payload() {
        eprintln!("cannot make what the machines need: {error:#}");
        return ExitCode::FAILURE;
    }
    let case = |name: &'static str, run: fn(&str) -> Result<()>| {
        Trial::test(name, move || {
            let begin = Instant::now();
            run(&name.replace("::", "-")).map_err(|error| format!("{error:#}"))?;
            println!("{name} took {:.0} s", begin.elapsed().as_secs_f64());
            Ok(())
        })
    };
    let trials = vec![
        case("captain::reboot_in_order", |name| {
            let run =
                Run::to_the_end(name, Osie::Captain, &with(&example("no-volumes.yaml")?, "WAITDAEMON_SYSLOG: SYSLOG"))?;
            run.in_order("reboot", USUAL_WAIT)?;
            let target = run.line("Reached target reboot.target")?;
            ensure!(run.line("MARK user container")? < target, "{}", run.tail());
            run.syslog_of_captain()
        }),
        case("captain::kexec", |name| {
            let action = example("kexec.yaml")?;
            let (action, volumes) = action.split_once("  volumes:\n").context("no volumes")?;
            ensure!(volumes.trim() == "- /var/run/docker.sock:/var/run/docker.sock", "other volumes: {volumes}");
            kexec(Run::to_the_end(name, Osie::Captain, &long_wait(action))?)
        }),
        case("captain::reboot_is_not_finished_where_that_is_off", |name| {
            stays_up(name, &with(&example("no-volumes.yaml")?, "WAITDAEMON_FINISH_REBOOT: \"false\""))
        }),
        case("hook::reboot", |name| {
            let run = Run::to_the_end(name, Osie::Hook, &with(&example("reboot.yaml")?, "WAITDAEMON_UNKNOWN: \"1\""))?;
            run.in_order("reboot", USUAL_WAIT)?;
            run.syslog_of_docker()
        }),
        case("hook::reboot_at_once", |name| {
            let action = example("reboot.yaml")?.replace("[\"reboot\"]", "[\"reboot\", \"-f\"]");
            Run::to_the_end(name, Osie::Hook, &action)?.in_order("reboot -f", USUAL_WAIT)
        }),
        case("hook::kexec", |name| kexec(Run::to_the_end(name, Osie::Hook, &long_wait(&example("kexec.yaml")?))?)),
        case("hook::a_panic_is_no_reboot", |name| {
            // Restarted by its kernel after the panic, it ends QEMU as one that reboots.
            let mut vm = Vm::boot(Osie::Hook, &payload(), "panic_now panic=-1", &serial(name))?;
            ensure!(vm.end(REPORT_LIMIT)? == End::Panicked, "a panic passes for a reboot: {}", vm.tail());
            Ok(())
        }),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn example(name: &str) -> Result<String> {
    Ok(fs::read_to_string(paths::root().join("examples").join(name))?)
}

/// An action with one more line of its environment.
fn with(action: &str, line: &str) -> String {
    action.replace("IMAGE: alpine\n", &format!("IMAGE: alpine\n    {line}\n"))
}

/// The kexec action with [`LONG_WAIT`].
fn long_wait(action: &str) -> String {
    action.replace("IMAGE: quay", &format!("WAIT_SECONDS: \"{LONG_WAIT}\"\n    IMAGE: quay"))
}

/// The user container came in order, and then the installed system's kernel.
fn kexec(run: Run) -> Result<()> {
    run.in_order("kexec", LONG_WAIT)?;
    run.second_kernel()
}

/// Where this run's files are.
fn folder() -> PathBuf {
    paths::root().join("target/qemu")
}

fn payload() -> PathBuf {
    folder().join("payload.ext4")
}

/// Where a machine's serial line is left.
fn serial(name: &str) -> PathBuf {
    folder().join(format!("{name}.serial"))
}

/// The disk with waitdaemon's image, the user images and the agent.
fn make_payload() -> Result<()> {
    let content = folder().join("payload");
    let _ = fs::remove_dir_all(&content);
    fs::create_dir_all(&content)?;
    fs::copy(paths::root().join("dist/waitdaemon.tar"), content.join("waitdaemon.tar"))?;
    fs::copy(paths::cache().join("tink/agent"), content.join("agent"))?;
    // BusyBox's own, and before it a line by the kernel.
    let reboot = "#!/bin/sh\necho \"<2>MARK user container reboot $*\" > /dev/kmsg\nexec /bin/reboot \"$@\"\n";
    let entry = Entry::Text("usr/local/sbin/reboot", 0o755, reboot.into());
    image::busybox(&content.join("alpine.tar"), "alpine:latest", &json!({"Cmd": ["/bin/sh"]}), &[entry])?;
    // Does what the kexec action does, by kexec-tools.
    let kexec = "#!/bin/sh -e\n\
        echo \"<2>MARK user container kexec\" > /dev/kmsg\n\
        mkdir -p /installed\n\
        mount -o ro -t \"$FS_TYPE\" \"$BLOCK_DEVICE\" /installed\n\
        kexec() { /kexec/ld-linux-x86-64.so.2 --library-path /kexec /kexec/kexec \"$@\"; }\n\
        kexec -s -l /installed/boot/vmlinuz --initrd=/installed/boot/initrd \
        --command-line='console=ttyS0 quiet printk.devkmsg=on edd=off reboot=t installed'\n\
        kexec -e\n";
    let entries =
        [Entry::Text("kexec.sh", 0o755, kexec.into()), Entry::Files("kexec", 0o755, paths::cache().join("qemu/kexec"))];
    let name = "quay.io/tinkerbell-actions/kexec:v1.0.0";
    image::busybox(&content.join("kexec.tar"), name, &json!({"Entrypoint": ["/kexec.sh"]}), &entries)?;
    let path = std::env::var("PATH").unwrap_or_default();
    let mut mke2fs = Command::new("mke2fs");
    mke2fs.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    mke2fs.args(["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d"]).arg(&content).arg(payload());
    ensure!(mke2fs.arg("128M").stdout(Stdio::null()).status()?.success(), "mke2fs failed");
    Ok(())
}

/// A machine with its agent at work, and what it reports and logs.
struct Run {
    name: String,
    vm: Vm,
    server: Watch,
    syslog: Receiver,
}

impl Run {
    /// Boots and waits until the agent has reported SUCCESS.
    fn to_success(name: &str, osie: Osie, action: &str) -> Result<Self> {
        let actions = folder().join(format!("{name}.yaml"));
        let syslog = Receiver::start(&folder().join(format!("{name}.syslog")))?;
        fs::write(&actions, action.replace(": SYSLOG", &format!(": 10.0.2.2:{}", syslog.port)))?;
        let port = free_port()?;
        let mut server = Command::new("setpriv");
        server.args(["--pdeathsig", "KILL"]).arg(paths::cache().join("tink/server-standin"));
        let mut server = Watch::of(server.args(["-listen", &format!("127.0.0.1:{port}")]).arg(&actions))?;
        until("the stand-in for the Tink Server", START_LIMIT, || {
            ensure!(server.ended()?.is_none(), "it ended; it says why above");
            Ok(server.lines().iter().any(|(_, line)| line.contains("LISTENING")).then_some(()))
        })?;
        let ports = format!("server_port={port} syslog_port={}", syslog.port);
        let vm = Vm::boot(osie, &payload(), &ports, &serial(name))?;
        let mut run = Self { name: name.to_owned(), vm, server, syslog };
        let reported = until("the agent's report", REPORT_LIMIT, || {
            ensure!(!run.vm.has_ended()?, "the machine ended before the agent's report");
            ensure!(run.server.ended()?.is_none(), "the stand-in for the Tink Server ended");
            let failed = ["MARK failed", "Failed to start osie"].iter().any(|words| run.line(words).is_ok());
            ensure!(!failed, "the machine cannot work");
            Ok(run.reports().into_iter().find(|state| state != "RUNNING"))
        });
        let reported = reported.with_context(|| run.tail())?;
        ensure!(reported == "SUCCESS", "the agent reported {reported}: {}", run.tail());
        Ok(run)
    }

    /// To the machine's end, which must be a restart by its kernel.
    fn to_the_end(name: &str, osie: Osie, action: &str) -> Result<Self> {
        let mut run = Self::to_success(name, osie, action)?;
        let end = run.vm.end(END_LIMIT).with_context(|| run.syslog.tail())?;
        ensure!(end == End::Restarted, "the machine panicked: {}", run.tail());
        Ok(run)
    }

    /// The ends of the serial line and of what came by syslog: on HookOS all that containers print.
    fn tail(&self) -> String {
        format!("{}{}", self.vm.tail(), self.syslog.tail())
    }

    /// How often the agent asked for work and got none.
    fn asked_in_vain(&self) -> usize {
        self.server.lines().iter().filter(|(_, line)| line.contains("in vain")).count()
    }

    fn reports(&self) -> Vec<String> {
        let lines = self.server.lines().into_iter().filter_map(|(_, line)| serde_json::from_str::<Value>(&line).ok());
        let reports = lines.filter(|line| line["action"].is_string());
        reports.filter_map(|line| Some(line["state"].as_str()?.to_owned())).collect()
    }

    /// The number of the first line with these words.
    fn line(&self, words: &str) -> Result<usize> {
        let found = self.vm.lines().iter().position(|(_, line)| line.contains(words));
        found.with_context(|| format!("no {words:?} on the serial line: {}", self.tail()))
    }

    /// The order on the serial line: the action's end with 0, not before WAIT_SECONDS the user container, its end of the machine.
    fn in_order(&self, command: &str, least: f64) -> Result<()> {
        let lines: Vec<String> = self.vm.lines().into_iter().map(|(_, line)| line).collect();
        // A long line is there in pieces.
        let agent: String = lines.iter().filter_map(|line| line.split_once("] AGENT ")).map(|(_, said)| said).collect();
        let proved = agent.split_once("identified the action container").map(|(_, after)| after).context("no proof")?;
        let proved = &proved[..proved.find("proof").with_context(|| self.tail())?];
        let own = |(_, (id, _)): &(usize, (String, f64))| proved.contains(id.as_str());
        let ends = lines.iter().enumerate().filter_map(|(number, line)| Some((number, ended_with_0(line)?)));
        let (action, (_, ended)) = ends.into_iter().find(own).with_context(|| format!("no end: {}", self.tail()))?;
        let user = self.line("MARK user container")?;
        let said = lines[user].split_once("MARK user container ").map(|(_, said)| said.trim());
        ensure!(said == Some(command), "the user container said {said:?}");
        // Two clocks: an event is on the line a little after the engine's time, and the quickest tells the difference.
        let delays = lines.iter().filter_map(|line| Some(kernel_time(line)? - engine_time(&event(line)?)?));
        let difference = delays.fold(f64::INFINITY, f64::min);
        let waited = kernel_time(&lines[user]).context("no time")? - (ended + difference);
        ensure!(waited >= least, "the user container came after {waited:.3} s");
        let restarts = self.line("reboot: Restarting system")?;
        println!("  {}: {waited:.3} s from the action's end to the user container", self.name);
        ensure!(action < user && user < restarts, "lines {action}, {user}, {restarts}: {}", self.tail());
        Ok(())
    }

    /// The kernel of the installed system runs after the user container, and none before.
    fn second_kernel(&self) -> Result<()> {
        let (user, second) = (self.line("MARK user container")?, self.line("MARK the second kernel runs")?);
        ensure!(user < second && self.vm.lines()[second].1.contains(" installed"), "{}", self.tail());
        Ok(())
    }

    /// The waiter's own WARN line (28 is daemon.warning) by RFC 5424, and no INFO line.
    fn syslog_of_captain(&self) -> Result<()> {
        let text = self.syslog.text()?;
        let line = text.lines().find(|line| line.contains("asking systemd"));
        let line = line.with_context(|| format!("the waiter's warning did not come: {text}"))?;
        ensure!(line.starts_with("<28>1 ") && line.contains(" tinkerbell_reboot_a0 "), "{line}");
        ensure!(!text.contains("armed"), "an INFO line: {text}");
        Ok(())
    }

    /// Docker's syslog driver makes the waiter's INFO lines INFO (30 is daemon.info), and the handoff's WARN lines ERR (27).
    fn syslog_of_docker(&self) -> Result<()> {
        let text = self.syslog.text()?;
        for (severity, words) in
            [("<30>", "\"message\":\"armed\""), ("<30>", "handed over"), ("<27>", "WAITDAEMON_UNKNOWN")]
        {
            let line = text.lines().find(|line| line.contains(words));
            let line = line.with_context(|| format!("{words} did not come: {text}"))?;
            ensure!(line.starts_with(severity), "not {severity}: {line}");
        }
        Ok(())
    }
}

/// When the action's container ended with 0, as the engine tells on this line of the serial line: its ID, and seconds since 1970.
fn ended_with_0(line: &str) -> Option<(String, f64)> {
    let event = event(line)?;
    let id = |id: &Value| Some(id.as_str()?.to_owned());
    if event["Action"] == "die" && event["Actor"]["Attributes"]["exitCode"] == "0" {
        return Some((id(&event["id"])?, event["timeNano"].as_f64()? / 1e9));
    }
    if event["Topic"] == "/tasks/exit" {
        // containerd leaves out a status of 0.
        let exit: Value = serde_json::from_str(event["Event"].as_str()?).ok()?;
        let at = &exit["exited_at"];
        let seconds = at["seconds"].as_f64()? + at["nanos"].as_f64().unwrap_or(0.0) / 1e9;
        return exit["exit_status"].is_null().then_some((id(&exit["container_id"])?, seconds));
    }
    None
}

/// An event of the engine that stands on this line.
fn event(line: &str) -> Option<Value> {
    serde_json::from_str(line.split_once("] EVENT ")?.1).ok()
}

/// The engine's time of an event, in seconds since 1970.
fn engine_time(event: &Value) -> Option<f64> {
    let nanoseconds = event["timeNano"].as_f64().map(|time| time / 1e9);
    nanoseconds.or_else(|| {
        let time = humantime::parse_rfc3339(event["Timestamp"].as_str()?).ok()?;
        Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs_f64())
    })
}

/// The kernel's time on a line, in seconds since the boot.
fn kernel_time(line: &str) -> Option<f64> {
    line.strip_prefix('[')?.split_once(']')?.0.trim().parse().ok()
}

/// Without the waiter's help a `reboot` of BusyBox's does nothing under systemd: the machine stays up.
fn stays_up(name: &str, action: &str) -> Result<()> {
    let mut run = Run::to_success(name, Osie::Captain, action)?;
    run.vm.said("MARK user container", END_LIMIT)?;
    run.vm.said("the user container ended with success", END_LIMIT)?;
    let mut stays_up_for = |time: Duration, what: &str, sign: &dyn Fn(&Run) -> bool| {
        let begin = Instant::now();
        until(what, time + END_LIMIT, || {
            ensure!(!run.vm.has_ended()?, "the machine went down: {}", run.tail());
            for words in ["asking systemd", "Stopping osie.service", "Reached target shutdown.target"] {
                ensure!(run.line(words).is_err(), "{words}: {}", run.tail());
            }
            Ok((begin.elapsed() >= time && sign(&run)).then_some(()))
        })
    };
    // Of the action, the user container and the waiter.
    let removed =
        |run: &Run| run.vm.lines().iter().filter(|(_, line)| line.contains("\"/containers/delete\"")).count() == 3;
    stays_up_for(Duration::ZERO, "the waiter to have cleared up", &removed)?;
    stays_up_for(STAYS_UP, "the machine to have stayed up", &|_| true)?;
    let before = run.asked_in_vain();
    until("a sign of life: the agent's question", END_LIMIT, || Ok((run.asked_in_vain() > before).then_some(())))
        .with_context(|| run.tail())
}

/// The receiver of syslog's datagrams; it ends with the value.
struct Receiver {
    child: Child,
    file: PathBuf,
    port: u16,
}

impl Receiver {
    fn start(file: &Path) -> Result<Self> {
        let _ = fs::remove_file(file);
        let port = free_port()?;
        let mut receiver = Command::new("setpriv");
        receiver.args(["--pdeathsig", "KILL"]).arg(paths::root().join("target/debug/syslog-receiver"));
        let child = receiver.arg(format!("127.0.0.1:{port}")).arg(file).stdin(Stdio::null()).spawn()?;
        let receiver = Self { child, file: file.to_owned(), port };
        until("the syslog receiver", START_LIMIT, || Ok(file.exists().then_some(())))?;
        Ok(receiver)
    }

    fn text(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.file)?)
    }

    /// The last that came.
    fn tail(&self) -> String {
        let text = self.text().unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        format!("syslog's end:\n{}\n", lines[lines.len().saturating_sub(20)..].join("\n"))
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

//! waitdaemon on machines that really boot, up to the reboot or the next kernel, run by the real
//! Tink Agent. `make test-machines` runs these cases.

mod disk;
mod receiver;
mod run;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::image::{self, Architecture, Entry};
use lab::paths;
use lab::suite::{self, Case};
use lab::until::until;
use lab::vm::{self, End, Osie, Vm};
use libtest_mimic::Arguments;
use serde_json::json;

use self::run::Run;

/// The time limit for a program that a machine needs beside it to be ready.
const START_LIMIT: Duration = Duration::from_secs(20);
/// From power-on to the action's report. 40 s is usual; two machines share two processors.
const REPORT_LIMIT: Duration = Duration::from_secs(240);
/// From the action's report to the machine's end.
const END_LIMIT: Duration = Duration::from_secs(120);
/// WAIT_SECONDS when the action does not set it.
const USUAL_WAIT: f64 = 10.0;
/// A wait beside which the 1 to 6 s that an engine here takes to start a container do not matter.
const LONG_WAIT: f64 = 30.0;
/// How long a machine that must stay up is watched after its `reboot` ended. A reboot through
/// systemd is requested after 3 s.
const STAYS_UP: Duration = Duration::from_secs(20);
/// The cases that also run on machines of the architecture that this machine does not have: what
/// can differ there, for each OSIE.
const ON_OTHER_ARCHITECTURE: [&str; 4] = [
    "captain::own_kexec_of_debian",
    "captain::reboot_in_order",
    "hook::own_kexec_by_the_specification",
    "hook::reboot",
];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // A machine keeps one processor busy.
    arguments.test_threads = arguments.test_threads.or(Some(2));
    if let Err(error) = make_payload().and_then(|()| disk::make()) {
        eprintln!("cannot make what the machines need: {error:#}");
        return ExitCode::FAILURE;
    }
    let case = |name: &'static str, run: fn(&str) -> Result<()>| {
        let run = Arc::new(move || {
            let begin = Instant::now();
            run(&name.replace("::", "-"))?;
            println!("{name} took {:.0} s", begin.elapsed().as_secs_f64());
            Ok(())
        });
        Case { name: name.to_owned(), run }
    };
    let mut cases = own_ends(&case);
    cases.extend([
        case("captain::reboot_in_order", |name| {
            let run = Run::to_the_end(
                name,
                Osie::Captain,
                &with(&example("no-volumes.yaml")?, "WAITDAEMON_SYSLOG: SYSLOG"),
            )?;
            run.in_order("reboot", USUAL_WAIT)?;
            let target = run.line("Reached target reboot.target")?;
            ensure!(run.line("MARK user container")? < target, "{}", run.tail());
            run.syslog_of_captain()
        }),
        case("captain::kexec", |name| {
            let action = example("kexec.yaml")?;
            let (action, volumes) = action.split_once("  volumes:\n").context("no volumes")?;
            ensure!(
                volumes.trim() == "- /var/run/docker.sock:/var/run/docker.sock",
                "other volumes: {volumes}"
            );
            kexec(Run::to_the_end(name, Osie::Captain, &long_wait(action))?)
        }),
        case("captain::reboot_is_not_finished_when_disabled", |name| {
            stays_up(
                name,
                &with(&example("no-volumes.yaml")?, "WAITDAEMON_FINISH_REBOOT: \"false\""),
            )
        }),
        case("hook::reboot", |name| {
            let run = Run::to_the_end(
                name,
                Osie::Hook,
                &with(&example("reboot.yaml")?, "WAITDAEMON_UNKNOWN: \"1\""),
            )?;
            run.in_order("reboot", USUAL_WAIT)?;
            run.syslog_of_docker()
        }),
        case("hook::reboot_at_once", |name| {
            let action = example("reboot.yaml")?.replace("[\"reboot\"]", "[\"reboot\", \"-f\"]");
            Run::to_the_end(name, Osie::Hook, &action)?.in_order("reboot -f", USUAL_WAIT)
        }),
        case("hook::kexec", |name| {
            kexec(Run::to_the_end(name, Osie::Hook, &long_wait(&example("kexec.yaml")?))?)
        }),
        case("hook::a_panic_is_no_reboot", |name| {
            // The kernel restarts the machine after the panic, so QEMU ends as it does after a
            // reboot.
            let mut vm = Vm::boot(
                Osie::Hook,
                &payload(),
                &disk::image(),
                "panic_now panic=-1",
                &serial(name),
            )?;
            ensure!(
                vm.end(REPORT_LIMIT)? == End::Panicked,
                "a panic passes for a reboot: {}",
                vm.tail()
            );
            Ok(())
        }),
    ]);
    if vm::architecture() != Architecture::NATIVE {
        cases.retain(|case| ON_OTHER_ARCHITECTURE.contains(&case.name.as_str()));
    }
    suite::run(&arguments, &cases).exit_code()
}

/// The ends without a second image, and the fallback if the user's own command brings no end.
fn own_ends(case: &dyn Fn(&'static str, fn(&str) -> Result<()>) -> Case) -> Vec<Case> {
    vec![
        case("hook::own_reboot", |name| own(name, Osie::Hook, "reboot", End::Restarted)),
        case("hook::own_poweroff", |name| own(name, Osie::Hook, "poweroff", End::PoweredOff)),
        case("hook::own_halt", |name| own(name, Osie::Hook, "halt", End::Halted)),
        case("hook::own_kexec_of_a_boot_partition", |name| {
            // Its fallback is not needed.
            let action = example("kexec-fallback.yaml")?;
            ensure!(action.contains(&format!("/dev/sda{}\n", disk::UBUNTU)), "{action}");
            let run = own_kexec(name, Osie::Hook, &action)?;
            run.line("MARK the second kernel runs with another initrd").map(drop)
        }),
        case("hook::own_kexec_by_the_specification", |name| {
            own_kexec(name, Osie::Hook, &kexec_of(disk::ROCKY, "")).map(drop)
        }),
        case("captain::own_reboot", |name| own(name, Osie::Captain, "reboot", End::Restarted)),
        case("captain::own_poweroff", |name| own(name, Osie::Captain, "poweroff", End::PoweredOff)),
        case("captain::own_halt", |name| own(name, Osie::Captain, "halt", End::Halted)),
        case("captain::own_kexec_of_debian", |name| {
            let run = own_kexec(name, Osie::Captain, &example("end-kexec.yaml")?)?;
            run.line("Reached target kexec.target").map(drop)
        }),
        case("hook::a_locked_down_kernel_takes_none", |name| locked_down(name, Osie::Hook)),
        case("captain::a_locked_down_kernel_takes_none", |name| locked_down(name, Osie::Captain)),
        // The handoff fails after the kernel was loaded; no kernel stays loaded.
        case("hook::a_failed_handoff_unloads_the_kernel", |name| {
            let action = kexec_of(disk::DEBIAN, "");
            let mut run = Run::to_report(name, Osie::Hook, &action, "refuse_waiter", "FAILED")?;
            run.vm.said("MARK kexec_loaded 0", END_LIMIT)?;
            let loaded = run.line("MARK kexec_loaded 1")?;
            ensure!(loaded < run.line("MARK kexec_loaded 0")?, "{}", run.tail());
            run.said_by_agent("cannot start the waiter")
        }),
        case("hook::a_kexec_that_is_cancelled_unloads_the_kernel", |name| {
            cancelled(name, Osie::Hook)
        }),
        case("captain::a_kexec_that_is_cancelled_unloads_the_kernel", |name| {
            cancelled(name, Osie::Captain)
        }),
        // The shutdown action of this init never ends.
        case("hook::an_init_that_does_not_end_is_forced", |name| {
            let action = own_action("reboot", "    WAITDAEMON_FORCE_AFTER_SECONDS: 10\n");
            let mut run = Run::to_report(name, Osie::Hook, &action, "stuck_init", "SUCCESS")?;
            let end = run.vm.end(END_LIMIT)?;
            ensure!(end == End::Restarted, "{end:?}: {}", run.tail());
            ensure!(run.syslog.text()?.contains("asking the kernel"), "{}", run.tail());
            Ok(())
        }),
        case("hook::fallback_after_a_kexec_that_fails", |name| {
            let action = example("kexec.yaml")?
                .replace("{{ formatPartition ( index .Hardware.Disks 0 ) 1 }}", "/dev/none");
            let more = "WAITDAEMON_FALLBACK: reboot\n    WAITDAEMON_FALLBACK_AFTER_SECONDS: 5\n    IMAGE: quay";
            Run::to_the_end(name, Osie::Hook, &action.replace("IMAGE: quay", more))?
                .second_does_not_run()
        }),
    ]
}

/// Checks that a kernel under lockdown, which accepts only signed kernels, fails the action.
fn locked_down(name: &str, osie: Osie) -> Result<()> {
    let action =
        kexec_of(disk::DEBIAN, "    KERNEL_PATH: /boot/tampered\n    INITRD_PATH: /boot/initrd\n");
    let run = Run::to_report(name, osie, &action, "lockdown=integrity", "FAILED")?;
    run.said_by_agent("cannot load the kernel /boot/tampered")?;
    run.said_by_agent("lockdown=")
}

/// Checks that a stopped waiter leaves no kernel loaded and the machine up.
fn cancelled(name: &str, osie: Osie) -> Result<()> {
    let action = kexec_of(disk::DEBIAN, "    WAIT_SECONDS: 600\n");
    let mut run =
        Run::to_report(name, osie, &action, "stop_waiter=tinkerbell_end_a0-waiter", "SUCCESS")?;
    run.vm.said("MARK kexec_loaded 0", END_LIMIT)?;
    let loaded = run.line("MARK kexec_loaded 1")?;
    ensure!(loaded < run.line("MARK kexec_loaded 0")?, "{}", run.tail());
    ensure!(!run.vm.has_ended()?, "the machine ended: {}", run.tail());
    Ok(())
}

/// An action with `command: [end]`, without IMAGE and volumes.
fn own_action(end: &str, environment: &str) -> String {
    let environment = if environment.is_empty() {
        String::new()
    } else {
        format!("  environment:\n{environment}")
    };
    format!(
        "- name: \"end\"\n  image: ghcr.io/waitdaemon/waitdaemon:latest\n  timeout: 90\n  pid: host\n  command: [\"{end}\"]\n{environment}"
    )
}

fn kexec_of(partition: u32, environment: &str) -> String {
    own_action("kexec", &format!("    BLOCK_DEVICE: /dev/sda{partition}\n{environment}"))
}

/// Checks that the machine ends this way, in order, and not before WAIT_SECONDS.
fn own(name: &str, osie: Osie, end: &str, expected: End) -> Result<()> {
    let mut run = Run::to_report(name, osie, &own_action(end, ""), "", "SUCCESS")?;
    let ended = run.vm.end(END_LIMIT).with_context(|| run.syslog.tail())?;
    ensure!(ended == expected, "{ended:?}: {}", run.tail());
    if osie == Osie::Captain {
        run.line(&format!("Reached target {end}.target"))?;
    }
    run.ended_after(USUAL_WAIT)
}

/// Checks that the installed system's kernel runs and was loaded before SUCCESS.
fn own_kexec(name: &str, osie: Osie, action: &str) -> Result<Run> {
    let run = Run::to_the_end(name, osie, action)?;
    run.said_by_agent("loaded the kernel of the installed system")?;
    let second = run.line("MARK the second kernel runs")?;
    ensure!(run.vm.lines()[second].1.contains(" installed"), "{}", run.tail());
    Ok(run)
}

fn example(name: &str) -> Result<String> {
    Ok(fs::read_to_string(paths::root().join("examples").join(name))?)
}

/// The action with one more line in its environment.
fn with(action: &str, line: &str) -> String {
    action.replace("IMAGE: alpine\n", &format!("IMAGE: alpine\n    {line}\n"))
}

/// The kexec action with [`LONG_WAIT`].
fn long_wait(action: &str) -> String {
    action.replace("IMAGE: quay", &format!("WAIT_SECONDS: \"{LONG_WAIT}\"\n    IMAGE: quay"))
}

/// Checks that the user container came in order, followed by the installed system's kernel.
fn kexec(run: Run) -> Result<()> {
    run.in_order("kexec", LONG_WAIT)?;
    run.second_kernel()
}

/// The folder for this run's files.
fn folder() -> PathBuf {
    paths::root().join("target/qemu")
}

fn payload() -> PathBuf {
    folder().join("payload.ext4")
}

/// The file that receives a machine's serial line.
fn serial(name: &str) -> PathBuf {
    folder().join(format!("{name}.serial"))
}

/// Makes the disk with waitdaemon's image, the user images and the agent.
fn make_payload() -> Result<()> {
    let content = folder().join("payload");
    let _ = fs::remove_dir_all(&content);
    fs::create_dir_all(&content)?;
    let architecture = vm::architecture();
    let ours = paths::images_for(architecture).join("waitdaemon.tar");
    fs::copy(ours, content.join("waitdaemon.tar"))?;
    let agent = paths::cache_for(architecture).join("tink/agent");
    fs::copy(agent, content.join("agent"))?;
    let busybox = vm::folder().join("busybox");
    // Writes a line through the kernel, then runs BusyBox's own reboot.
    let reboot = "#!/bin/sh\necho \"<2>MARK user container reboot $*\" > /dev/kmsg\nexec /bin/reboot \"$@\"\n";
    let entry = Entry::Text("usr/local/sbin/reboot", 0o755, reboot.into());
    image::busybox_with(
        &busybox,
        &content.join("alpine.tar"),
        "alpine:latest",
        &json!({"Cmd": ["/bin/sh"]}),
        &[entry],
    )?;
    // Does what the kexec action does, with kexec-tools.
    let kexec = format!(
        "#!/bin/sh -e\n\
        echo \"<2>MARK user container kexec\" > /dev/kmsg\n\
        mkdir -p /installed\n\
        mount -o ro -t \"$FS_TYPE\" \"$BLOCK_DEVICE\" /installed\n\
        kexec() {{ /kexec/ld-linux-*.so.* --library-path /kexec /kexec/kexec \"$@\"; }}\n\
        kexec -s -l /installed/boot/vmlinuz --initrd=/installed/boot/initrd \
        --command-line='{} quiet printk.devkmsg=on edd=off reboot=t installed'\n\
        kexec -e\n",
        vm::console()
    );
    let entries = [
        Entry::Text("kexec.sh", 0o755, kexec),
        Entry::Files("kexec", 0o755, vm::folder().join("kexec")),
    ];
    let name = "quay.io/tinkerbell-actions/kexec:v1.0.0";
    image::busybox_with(
        &busybox,
        &content.join("kexec.tar"),
        name,
        &json!({"Entrypoint": ["/kexec.sh"]}),
        &entries,
    )?;
    let path = std::env::var("PATH").unwrap_or_default();
    let mut mke2fs = Command::new("mke2fs");
    mke2fs.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    mke2fs
        .args(["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d"])
        .arg(&content)
        .arg(payload());
    ensure!(mke2fs.arg("128M").stdout(Stdio::null()).status()?.success(), "mke2fs failed");
    Ok(())
}

/// Checks that without the waiter's help BusyBox's `reboot` does nothing under systemd: the machine
/// stays up.
fn stays_up(name: &str, action: &str) -> Result<()> {
    let mut run = Run::to_success(name, Osie::Captain, action)?;
    run.vm.said("MARK user container", END_LIMIT)?;
    run.vm.said("the user container ended with success", END_LIMIT)?;
    let mut stays_up_for = |time: Duration, what: &str, sign: &dyn Fn(&Run) -> bool| {
        let begin = Instant::now();
        until(what, time + END_LIMIT, || {
            ensure!(!run.vm.has_ended()?, "the machine went down: {}", run.tail());
            for words in
                ["asking systemd", "Stopping osie.service", "Reached target shutdown.target"]
            {
                ensure!(run.line(words).is_err(), "{words}: {}", run.tail());
            }
            Ok((begin.elapsed() >= time && sign(&run)).then_some(()))
        })
    };
    stays_up_for(Duration::ZERO, "the waiter to complain", &|run| {
        run.line("the machine still runs").is_ok()
    })?;
    stays_up_for(STAYS_UP, "the machine to have stayed up", &|_| true)?;
    let before = run.asked_in_vain();
    until("a sign of life: the agent's question", END_LIMIT, || {
        Ok((run.asked_in_vain() > before).then_some(()))
    })
    .with_context(|| run.tail())
}

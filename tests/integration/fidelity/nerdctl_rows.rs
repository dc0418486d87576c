//! The fidelity table for containerd: every flag of `nerdctl create` 2.2.1 that leaves something in
//! a container. That is every field of the OCI spec that a container of nerdctl can have.
//!
//! In the values, `@OUT` is a folder of the machine, `@OTHER` the ID of another running container,
//! `@DISK` a block device.

use super::rows::{Row, Rows};

/// The groups of rows; each group is one case, on one machine.
pub const GROUPS: [(&str, Rows); 6] = [
    ("config", config),
    ("images", images),
    ("resources", resources),
    ("mounts", mounts),
    ("networks", networks),
    ("rights", rights),
];

/// What an action needs to reach the host's nerdctl without being privileged.
const REACHES_HOST: [&str; 3] =
    ["--pid=host", "--cap-add=ALL", "--security-opt=apparmor=unconfined"];

/// What an action needs to run a nerdctl of its own.
pub const INSIDE: [&str; 7] = [
    "--privileged",
    "--env=NERDCTL_HOST=false",
    "--volume=/run/containerd/containerd.sock:/run/containerd/containerd.sock",
    "--volume=/var/lib/containerd:/var/lib/containerd",
    "--volume=/var/lib/nerdctl:/var/lib/nerdctl",
    "--volume=/opt/cni/bin:/opt/cni/bin",
    "--volume=/etc/cni/net.d:/etc/cni/net.d",
];

/// A row for an action with the host's PIDs and all capabilities.
fn row(setting: &'static str, flags: &[&str]) -> Row {
    Row::flags(setting, &[&REACHES_HOST[..], flags].concat())
}

/// A row for an action with its own nerdctl and what that needs inside.
fn own(setting: &'static str, flags: &[&str]) -> Row {
    Row::flags(setting, &[&INSIDE[..], flags].concat()).own("waitdaemon:dev-nerdctl").changed(
        &["/Runtime/Options", "/Spec/hooks", "/Spec/linux/cgroupsPath", "/Spec/linux/devices"],
        "a nerdctl inside the action sees no systemd, so it manages cgroups itself; it sees a container's devices",
    )
}

/// As [`own`], for a setting that is refused before SUCCESS.
fn own_refused(
    setting: &'static str,
    flags: &[&str],
    words: &'static str,
    why: &'static str,
) -> Row {
    Row::flags(setting, &[&INSIDE[..], flags].concat())
        .own("waitdaemon:dev-nerdctl")
        .refused(words, why)
}

fn config() -> Vec<Row> {
    let long = format!("--env=LONG={}", "x".repeat(100_000));
    vec![
        row(
            "--env, byte for byte",
            &["--env=A=", "--env=B=x=y", "--env=C=\n ", "--env=D=ä\"'$X\\,", "--env=f g=h", "--env=A=again"],
        ),
        row("--env PATH", &["--env=PATH=/mine:/bin"]),
        row("--env HOSTNAME", &["--env=HOSTNAME=mine"]).networked(),
        row("--env, a long value", &[&long]),
        row(
            "--env, names that we use ourselves",
            &["--env=WAITDAEMON_LOG=debug", "--env=waitdaemon.role=waiter", "--env=TICKET={}"],
        ),
        row(
            "--env, engine and nerdctl variables",
            &["--env=NETCONFPATH=/x", "--env=CONTAINERD_ADDRESS=/x", "--env=NERDCTL_TOML=/x", "--env=LD_PRELOAD=/x"],
        ),
        row("arguments", &[]).arguments(&["sleep", "1001"]),
        row("arguments, every byte", &[]).arguments(&[
            "sh",
            "-c",
            "exec sleep 1000",
            "",
            "--",
            "-x",
            "--privileged",
            "a\nb",
            "ä\"'$HOME ",
        ]),
        row("--user", &["--user=0:5"]),
        row("--user, not root", &["--user=1000:1001"])
            .refused("cannot enter the host's namespaces", "entering the host's namespaces needs root"),
        row("--group-add", &["--group-add=10", "--group-add=1234"]),
        row("--umask", &["--umask=0027"]),
        row("--workdir", &["--workdir=/work/deep"]),
        row("--tty", &["--tty"]),
        row("--init-binary", &["--init-binary=tini-static"]),
        row("--systemd=always", &["--systemd=always"]),
        row("--hostname", &["--hostname=web"]).networked(),
        row("--domainname", &["--domainname=example.org"]).networked(),
        row("--label", &["--label=a=", "--label=b.c/d=x=y z", "--label=com.docker.compose.project=p"]),
        row("--label, names that we use ourselves", &["--label=waitdaemon.role=mine", "--label=waitdaemon.other=kept"])
            .changed(
                &["/Labels/waitdaemon.role"],
                "waitdaemon.role, .action and .handoff say which container is which; every other label is carried",
            ),
        row("--annotation", &["--annotation=org.example/a=b"]),
        row("--stop-signal", &["--stop-signal=SIGUSR1"]),
        row("--stop-signal, over the user image's", &["--stop-signal=SIGUSR1"])
            .image("full:1")
            .changed(
                &["/Labels/io.containerd.image.config.stop-signal"],
                "the action's value wins; nerdctl itself would use the image's",
            )
            .without_effect(),
        row("--stop-timeout", &["--stop-timeout=3"]),
        row(
            "--health-cmd and its times",
            &[
                "--health-cmd=true",
                "--health-interval=9s",
                "--health-timeout=3s",
                "--health-retries=7",
                "--health-start-period=1s",
            ],
        ),
        row("--no-healthcheck", &["--no-healthcheck"]),
        // Not `always`: containerd's restart monitor would restart the action at any moment.
        row("--restart", &["--restart=on-failure:5"])
            .changed(&["/Labels/containerd.io~1restart"], "the user container runs exactly once"),
        row("--rm", &["--rm"]).engine_refuses(
            "cannot be specified together",
            "nerdctl accepts it only without -d, and never for a container that is started later",
        ),
        row("--pidfile", &["--pidfile=@OUT/pid"]),
        row("--cidfile", &["--cidfile=@OUT/cid"])
            .changed(&["/Labels/nerdctl~1host-config"], "the file that it wrote is about the action"),
        row("--log-driver json-file with options", &["--log-opt=max-size=1m", "--log-opt=max-file=2"]),
        row("--log-driver none", &["--log-driver=none"]),
        row("--log-driver syslog", &["--log-driver=syslog", "--log-opt=syslog-address=udp://127.0.0.1:5514"]),
        row("--runtime", &["--runtime=io.containerd.runc.v2"]).without_effect(),
        row("--runtime, a program", &["--runtime=/usr/local/bin/runc"])
            .refused("runtime", "nerdctl keeps the program's path in a form that it does not show"),
        row("--platform", &[if cfg!(target_arch = "aarch64") { "--platform=linux/arm64" } else { "--platform=linux/amd64" }]).without_effect(),
    ]
}

fn images() -> Vec<Row> {
    vec![
        row("user image with ENTRYPOINT only", &["--label=row=1"]).image("entrypoint:1"),
        row("user image with ENTRYPOINT and CMD", &["--label=row=1"]).image("both:1"),
        row("user image with ENTRYPOINT and CMD, arguments", &[])
            .image("both:1")
            .arguments(&["1002"]),
        row("user image with neither, arguments", &[])
            .image("neither:1")
            .arguments(&["/bin/sleep", "1003"]),
        row("user image with neither, no arguments", &[]).image("neither:1").refused(
            "neither the action nor IMAGE says what to run",
            "nothing says what to run; nerdctl would refuse it only at start",
        ),
        row("user image that sets everything stands", &["--label=row=1"]).image("full:1"),
        row(
            "the action's values win over the user image's",
            &[
                "--env=A=action",
                "--env=C=action",
                "--label=from=action",
                "--workdir=/action",
                "--user=0:0",
                "--env=PATH=/action",
            ],
        )
        .image("full:1")
        .arguments(&["1004"]),
        row(
            "--env PATH as containerd sets it, over the user image's",
            &["--env=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        )
        .image("full:1")
        .changed(
            &["/Spec/process/env"],
            "it looks the same as if it were not set, so the user image's value stays",
        ),
        row("--workdir /, over the user image's", &["--workdir=/"]).image("full:1").changed(
            &["/Spec/process/cwd"],
            "it looks the same as if it were not set, so the user image's value stays",
        ),
        row("our own image's values never show", &["--label=row=1"]).own("own-full:1"),
        row(
            "the action's values win over both images'",
            &["--env=A=action", "--label=from=action", "--workdir=/action"],
        )
        .own("own-full:1")
        .image("full:1"),
    ]
}

fn resources() -> Vec<Row> {
    vec![
        row("--cpus", &["--cpus=0.5"]),
        row("--cpu-quota, --cpu-period", &["--cpu-quota=25000", "--cpu-period=50000"]),
        row("--cpu-shares", &["--cpu-shares=512"]),
        row("--cpuset-cpus", &["--cpuset-cpus=0"]),
        row("--cpuset-mems", &["--cpuset-mems=0"]),
        row(
            "--cpu-rt-period, --cpu-rt-runtime",
            &["--cpu-rt-period=1000000", "--cpu-rt-runtime=1000"],
        )
        .engine_refuses("rt_runtime", "works only if the parent cgroup has real-time"),
        row("--memory", &["--memory=64m"]),
        row("--memory-reservation", &["--memory-reservation=32m"]),
        row("--memory-swap", &["--memory=64m", "--memory-swap=96m"]),
        row("--memory-swap, unlimited", &["--memory=64m", "--memory-swap=-1"]),
        row("--memory-swappiness", &["--memory-swappiness=30"]),
        row("--memory-swappiness, 0", &["--memory-swappiness=0"]),
        row("--kernel-memory", &["--kernel-memory=64m"]).without_effect(),
        row("--oom-kill-disable", &["--oom-kill-disable", "--memory=64m"]),
        row("--oom-score-adj", &["--oom-score-adj=100"]),
        row("--pids-limit", &["--pids-limit=50"]),
        row("--blkio-weight", &["--blkio-weight=300"]).without_effect(),
        row("--blkio-weight-device", &["--blkio-weight-device=@DISK:300"]).without_effect(),
        row("--device-read-bps", &["--device-read-bps=@DISK:1mb"]),
        row("--device-write-bps", &["--device-write-bps=@DISK:1mb"]),
        row("--device-read-iops", &["--device-read-iops=@DISK:1000"]),
        row("--device-write-iops", &["--device-write-iops=@DISK:1000"]),
        row("--cgroup-parent", &["--cgroup-parent=/parent"]),
        row("--cgroup-conf", &["--cgroup-conf=memory.high=64M"])
            .engine_refuses("cgroup v2", "works only on cgroup v2"),
        row("--rdt-class", &["--rdt-class=x"]),
        row("--shm-size", &["--shm-size=1m"]),
        row("--ulimit", &["--ulimit=nofile=100:200", "--ulimit=core=0", "--ulimit=stack=-1"]),
        row("--sysctl", &["--sysctl=net.ipv4.ip_forward=1", "--sysctl=kernel.shmmax=1048576"]),
        row("--gpus", &["--gpus=all"])
            .engine_refuses("nvidia-container-cli", "works only with NVIDIA's own program"),
    ]
}

fn mounts() -> Vec<Row> {
    vec![
        row("--volume", &["--volume=@OUT/a:/t", "--volume=@OUT/b:/u:ro", "--volume=@OUT/a:/v:rw"]),
        row(
            "--volume, options",
            &["--volume=@OUT/a:/t:rbind,ro", "--volume=@OUT/a:/u:bind", "--volume=@OUT/a:/v:rro"],
        ),
        row(
            "--volume, propagation",
            &[
                "--volume=@OUT/shared:/t:rshared",
                "--volume=@OUT/shared:/u:shared",
                "--volume=@OUT/shared:/v:rslave",
                "--volume=@OUT/shared:/w:slave,ro",
                "--volume=@OUT/a:/x:private",
            ],
        ),
        row("--volume, named", &["--volume=named:/t", "--volume=named:/u:ro"]),
        row("--volume, anonymous", &["--volume=/t"]).changed(
            &["/Labels/nerdctl~1mounts", "/Labels/nerdctl~1anonymous-volumes", "/Spec/mounts"],
            "the user container gets the action's volume, bound by name, instead of a new one",
        ),
        row("--volume, over the engine's own files", &["--volume=@OUT/file:/etc/hosts:ro"]),
        row(
            "--mount type=bind",
            &["--mount=type=bind,src=@OUT/a,dst=/t,readonly,bind-propagation=rslave"],
        ),
        row(
            "--mount type=bind, not recursive",
            &["--mount=type=bind,src=@OUT/a,dst=/t,bind-nonrecursive"],
        ),
        row("--mount type=volume", &["--mount=type=volume,src=named,dst=/t,ro"]),
        row("--mount type=tmpfs", &["--mount=type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=0700"]),
        row("--tmpfs", &["--tmpfs=/t:size=1m,mode=700,exec", "--tmpfs=/u"]),
        row("--volumes-from", &["--volumes-from=plain"]).changed(
            &["/Labels/nerdctl~1mounts", "/Labels/nerdctl~1anonymous-volumes", "/Spec/mounts"],
            "the other container's volumes, each by name or path",
        ),
        row("--read-only", &["--read-only"]),
    ]
}

fn networks() -> Vec<Row> {
    vec![
        row("--network none", &["--network=none"]),
        row("--network host", &["--network=host"]),
        row("--network host, with a hostname", &["--network=host", "--hostname=web"]),
        row("--network, by name", &["--network=front"]),
        row("--network, several", &["--network=front", "--network=back"]),
        row("--network container:X", &["--network=container:other"]),
        row("--network ns:PATH", &["--network=ns:/run/netns/lab"]),
        row("--ip", &["--network=front", "--ip=10.7.0.77"]),
        row("--mac-address", &["--mac-address=02:42:00:00:00:09"]),
        row("--dns", &["--dns=10.1.1.1", "--dns=10.1.1.2"]),
        row("--dns-option", &["--dns-option=ndots:3"]),
        row("--dns-search", &["--dns-search=example.org"]),
        row("--add-host", &["--add-host=db:10.1.1.3", "--add-host=other:10.1.1.4"]),
        row("--publish", &["--publish=127.0.0.1:8080:80"]).refused(
            "port is already allocated",
            "nerdctl checks at create that the port is free, but the action itself holds it",
        ),
        row("--uts host", &["--uts=host"]),
    ]
    .into_iter()
    .map(Row::networked)
    .collect()
}

fn rights() -> Vec<Row> {
    vec![
        Row::flags("--privileged", &["--pid=host", "--privileged"]),
        Row::flags(
            "--security-opt privileged-without-host-devices",
            &["--pid=host", "--privileged", "--security-opt=privileged-without-host-devices"],
        ),
        Row::flags(
            "--cap-drop, --cap-add",
            &[
                "--pid=host",
                "--cap-drop=ALL",
                "--cap-add=SYS_ADMIN",
                "--cap-add=SYS_PTRACE",
                "--cap-add=SYS_CHROOT",
                "--cap-add=DAC_OVERRIDE",
                "--cap-add=NET_ADMIN",
            ],
        ),
        row("--cap-drop", &["--cap-drop=NET_RAW", "--cap-drop=MKNOD"]),
        row("--security-opt no-new-privileges", &["--security-opt=no-new-privileges"]),
        row("--security-opt seccomp=unconfined", &["--security-opt=seccomp=unconfined"]),
        row("--security-opt seccomp=FILE", &["--security-opt=seccomp=@OUT/seccomp.json"]),
        row("--security-opt systempaths=unconfined", &["--security-opt=systempaths=unconfined"]),
        row("--security-opt writable-cgroups", &["--security-opt=writable-cgroups=true"]),
        row("--device", &["--device=/dev/full:/dev/mine:r"]),
        row("--device, a folder", &["--device=/dev/net"]),
        row("--device, CDI", &["--device=example.org/lab=one"])
            .refused("linux.devices", "nerdctl does not record which CDI device was asked for"),
        row("--cgroupns host", &["--cgroupns=host"]),
        row("--cgroupns private", &["--cgroupns=private"]).without_effect(),
        row("--ipc host", &["--ipc=host"]),
        row("--ipc shareable", &["--ipc=shareable"]),
        row("--ipc container:X", &["--ipc=container:other"]),
        row("--userns host", &["--userns=host"]).without_effect(),
        own("--pid, private", &[]),
        own("--pid container:X", &["--pid=container:@OTHER"]),
        own_refused(
            "--publish, with a private PID namespace",
            &["--publish=127.0.0.1:8081:80"],
            "cannot publish the action's ports again",
            "two containers cannot publish the same port",
        ),
    ]
}

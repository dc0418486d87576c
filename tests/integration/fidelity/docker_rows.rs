//! The fidelity table for Docker: every setting of `POST /containers/create`, API 1.41 to 1.56.
//!
//! In the values, `@OUT` is a folder of the machine, `@CGROUP` the machine's cgroup, `@OTHER` the
//! ID of another running container.

use lab::system::System;
use serde_json::{Value, json};

use super::docker_networks::networks;
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

/// A request with one field of HostConfig.
pub fn host(field: &str, value: Value) -> Value {
    json!({"HostConfig": {field: value}})
}

fn config() -> Vec<Row> {
    let long = "x".repeat(100_000);
    vec![
        Row::body("Hostname", json!({"Hostname": "web"})).networked(),
        Row::body("Domainname", json!({"Domainname": "example.org"})).networked(),
        Row::body("User, by number", json!({"User": "1000:1001"})),
        Row::body("User, by name", json!({"User": "nobody"})).engine_refuses(
            "unable to find user nobody",
            "the engine looks up names in the action's image, and ours has no /etc/passwd; numbers work",
        ),
        Row::body("AttachStdin", json!({"AttachStdin": true})),
        Row::body("AttachStdout", json!({"AttachStdout": true})),
        Row::body("AttachStderr", json!({"AttachStderr": true})),
        Row::body("Tty", json!({"Tty": true})),
        Row::body("OpenStdin", json!({"OpenStdin": true})),
        Row::body("StdinOnce", json!({"OpenStdin": true, "StdinOnce": true})),
        Row::body("Env, byte for byte", json!({"Env": ["A=", "B=x=y", "C=\n ", "D=ä\"'$X\\", "E=\t", "f g=h", "A=again"]})),
        Row::body("Env, PATH", json!({"Env": ["PATH=/mine:/bin"]})),
        Row::body("Env, a long value", json!({"Env": [format!("LONG={long}")]})),
        Row::body("Env, names that we use ourselves", json!({"Env": [
            "waitdaemon.role=waiter", "WAITDAEMON_LOG=debug", "CONTAINER_RUNTIME=docker", "WAITDAEMON_ROLE=waiter", "TICKET={}",
        ]})),
        Row::body("Env, engine and nerdctl variables", json!({"Env": [
            "NETCONFPATH=/x", "CONTAINERD_ADDRESS=/x", "NERDCTL_TOML=/x", "DOCKER_CONFIG=/x", "LD_PRELOAD=/x", "RUST_LOG=trace",
        ]})),
        Row::body("Cmd", json!({"Cmd": ["sleep", "1001"]})),
        Row::body("Cmd, every byte", json!({"Cmd": ["sh", "-c", "exec sleep 1000", "", "--", "-x", "--privileged", "a\nb", "ä\"'$HOME "]})),
        Row::body("Entrypoint", json!({"Entrypoint": ["/waitdaemon", "sleep"], "Cmd": ["1002"]})).stands_for(json!({"Cmd": ["sleep", "1002"]})).changed(
            &[],
            "its first word is our program; the rest become arguments for the user image's ENTRYPOINT",
        ),
        Row::body("Healthcheck", json!({"Healthcheck": {"Test": ["CMD", "true"], "Interval": 60_000_000_000_u64, "Timeout": 5_000_000_000_u64, "Retries": 7, "StartPeriod": 2_000_000_000_u64}})),
        Row::body("Healthcheck.StartInterval", json!({"Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 60_000_000_000_u64, "StartPeriod": 60_000_000_000_u64, "StartInterval": 9_000_000_000_u64}})).since(44),
        Row::body("Healthcheck, NONE", json!({"Healthcheck": {"Test": ["NONE"]}})),
        Row::body("ArgsEscaped", json!({"ArgsEscaped": true, "Cmd": ["sleep", "1003"]})),
        Row::body("WorkingDir", json!({"WorkingDir": "/work/deep"})),
        Row::body("NetworkDisabled", json!({"NetworkDisabled": true})).networked(),
        Row::body("MacAddress", json!({"MacAddress": "02:42:00:00:00:09"})).networked().until(51),
        Row::body("OnBuild", json!({"OnBuild": ["RUN true"]})),
        Row::body("Labels", json!({"Labels": {"a": "", "b.c/d": "x=y\nz", "com.docker.compose.project": "p"}})),
        Row::body("Labels, names that we use ourselves", json!({"Labels": {"waitdaemon.role": "mine", "waitdaemon.other": "kept"}})).changed(
            &["/Config/Labels/waitdaemon.role"],
            "waitdaemon.role, .action and .handoff say which container is which; every other label is carried",
        ),
        Row::body("StopSignal", json!({"StopSignal": "SIGUSR1"})),
        Row::body("StopTimeout", json!({"StopTimeout": 3})),
        Row::body("Shell", json!({"Shell": ["/bin/ash", "-c"]})),
        Row::body("ExposedPorts", json!({"ExposedPorts": {"80/tcp": {}, "53/udp": {}}})).networked(),
        Row::body("AutoRemove", host("AutoRemove", json!(true))).changed(
            &["/HostConfig/AutoRemove"],
            "the waiter reads the exit code first; it removes a user container that ended with 0 and keeps one that failed",
        ),
        Row::body("RestartPolicy", host("RestartPolicy", json!({"Name": "unless-stopped"}))).changed(
            &["/HostConfig/RestartPolicy"],
            "the user container runs exactly once",
        ),
        Row::body("ContainerIDFile", host("ContainerIDFile", json!("/x"))).changed(
            &["/HostConfig/ContainerIDFile"],
            "a path for the docker command's own use; the file that it wrote is about the action",
        ),
    ]
}

/// Everything that an image can set.
pub fn full_image() -> Value {
    json!({
        "Env": ["PATH=/image/bin:/bin", "A=image", "B=image"], "Labels": {"from": "image", "other": "image"},
        "WorkingDir": "/image", "User": "1000", "Volumes": {"/image-volume": {}}, "ExposedPorts": {"8080/tcp": {}},
        "Healthcheck": {"Test": ["CMD", "true"], "Interval": 90_000_000_000_u64}, "StopSignal": "SIGQUIT",
        "Entrypoint": ["/bin/sleep"], "Cmd": ["1004"],
    })
}

/// Everything that an image can set, in our own repackaged image.
pub fn own_full_image() -> Value {
    json!({
        "Env": ["PATH=/own/bin", "A=own", "OWN=own"], "Labels": {"from": "own", "own": "own"},
        "WorkingDir": "/own", "User": "0:0", "Volumes": {"/own-volume": {}}, "ExposedPorts": {"9090/tcp": {}},
        "Healthcheck": {"Test": ["CMD", "/waitdaemon"], "Interval": 3_600_000_000_000_u64}, "StopSignal": "SIGHUP",
        "Entrypoint": ["/waitdaemon"],
    })
}

fn images() -> Vec<Row> {
    let set_all = || {
        json!({
            "Env": ["A=action", "C=action"], "Labels": {"from": "action"}, "WorkingDir": "/action", "User": "0",
            "Healthcheck": {"Test": ["NONE"]}, "StopSignal": "SIGUSR2", "Cmd": ["1005"], "ExposedPorts": {"1/tcp": {}},
        })
    };
    let nothing = || json!({"Labels": {"row": "1"}});
    vec![
        Row::body("user image with ENTRYPOINT only", nothing()).image("entrypoint:1"),
        Row::body("user image with ENTRYPOINT only, arguments", json!({"Cmd": ["1006"]}))
            .image("entrypoint:1"),
        Row::body("user image with ENTRYPOINT and CMD", nothing()).image("both:1"),
        Row::body("user image with ENTRYPOINT and CMD, arguments", json!({"Cmd": ["1007"]}))
            .image("both:1"),
        Row::body("user image with neither, arguments", json!({"Cmd": ["/bin/sleep", "1008"]}))
            .image("neither:1"),
        Row::body("user image with neither, no arguments", nothing()).image("neither:1").refused(
            "neither the action nor IMAGE says what to run",
            "nothing says what to run; the engine refuses it at create",
        ),
        Row::body("user image that sets everything stands", nothing()).image("full:1"),
        Row::body("the action's values win over the user image's", set_all()).image("full:1"),
        Row::body("Env, a name alone removes the user image's variable", json!({"Env": ["A"]}))
            .image("full:1"),
        Row::body("WorkingDir /, over the user image's", json!({"WorkingDir": "/"}))
            .image("full:1"),
        Row::body("StopSignal SIGTERM, over the user image's", json!({"StopSignal": "SIGTERM"}))
            .image("full:1"),
        Row::body(
            "Env, a value that a repackaged waitdaemon image has too",
            json!({"Env": ["OWN=own"]}),
        )
        .own("own-full:1")
        .changed(&["/Config/Env", "/Spec/process/env"], "it cannot be told from the image's"),
        Row::body("our own image's values never show", nothing()).own("own-full:1"),
        Row::body(
            "our own image's values never show in a user image that sets everything",
            nothing(),
        )
        .own("own-full:1")
        .image("full:1"),
        Row::body("the action's values win over both images'", set_all())
            .own("own-full:1")
            .image("full:1"),
    ]
}

fn resources() -> Vec<Row> {
    const MIB: u64 = 1 << 20;
    vec![
        Row::body("CpuShares", host("CpuShares", json!(512))),
        Row::body("NanoCpus", host("NanoCpus", json!(500_000_000))),
        Row::body(
            "CpuPeriod, CpuQuota",
            json!({"HostConfig": {"CpuPeriod": 50_000, "CpuQuota": 25_000}}),
        ),
        Row::body(
            "CpuRealtimePeriod, CpuRealtimeRuntime",
            json!({"HostConfig": {"CpuRealtimePeriod": 1_000_000, "CpuRealtimeRuntime": 1000}}),
        )
        .engine_refuses("cpu.rt_runtime_us", "works only if dockerd runs with --cpu-rt-runtime"),
        Row::body("CpusetCpus", host("CpusetCpus", json!("0"))),
        Row::body("CpusetMems", host("CpusetMems", json!("0"))),
        Row::body("Memory", host("Memory", json!(64 * MIB))),
        Row::body("MemoryReservation", host("MemoryReservation", json!(32 * MIB))),
        Row::body(
            "MemorySwap",
            json!({"HostConfig": {"Memory": 64 * MIB, "MemorySwap": 128 * MIB}}),
        ),
        Row::body(
            "MemorySwap, unlimited",
            json!({"HostConfig": {"Memory": 64 * MIB, "MemorySwap": -1}}),
        ),
        Row::body("MemorySwappiness", host("MemorySwappiness", json!(30))),
        Row::body("KernelMemory", host("KernelMemory", json!(64 * MIB))).until(41),
        Row::body("KernelMemoryTCP", host("KernelMemoryTCP", json!(64 * MIB))).until(41),
        Row::body(
            "OomKillDisable",
            json!({"HostConfig": {"OomKillDisable": true, "Memory": 64 * MIB}}),
        ),
        Row::body("OomScoreAdj", host("OomScoreAdj", json!(100))),
        Row::body("PidsLimit", host("PidsLimit", json!(50))),
        Row::body(
            "Ulimits",
            host(
                "Ulimits",
                json!([{"Name": "nofile", "Soft": 100, "Hard": 200}, {"Name": "core", "Soft": 0, "Hard": 0}]),
            ),
        ),
        Row::body("BlkioWeight", host("BlkioWeight", json!(300))).without_effect(),
        Row::body(
            "BlkioWeightDevice",
            host("BlkioWeightDevice", json!([{"Path": "@DISK", "Weight": 300}])),
        ),
        Row::body(
            "BlkioDeviceReadBps",
            host("BlkioDeviceReadBps", json!([{"Path": "@DISK", "Rate": MIB}])),
        ),
        Row::body(
            "BlkioDeviceWriteBps",
            host("BlkioDeviceWriteBps", json!([{"Path": "@DISK", "Rate": MIB}])),
        ),
        Row::body(
            "BlkioDeviceReadIOps",
            host("BlkioDeviceReadIOps", json!([{"Path": "@DISK", "Rate": 1000}])),
        ),
        Row::body(
            "BlkioDeviceWriteIOps",
            host("BlkioDeviceWriteIOps", json!([{"Path": "@DISK", "Rate": 1000}])),
        ),
        Row::body("CgroupParent", host("CgroupParent", json!("/@CGROUP/parent"))),
        Row::body(
            "Devices",
            host(
                "Devices",
                json!([{"PathOnHost": "/dev/full", "PathInContainer": "/dev/mine", "CgroupPermissions": "r"}]),
            ),
        ),
        Row::body("DeviceCgroupRules", host("DeviceCgroupRules", json!(["c 42:* rmw", "b 7:1 r"]))),
        Row::body(
            "DeviceRequests, a driver",
            host(
                "DeviceRequests",
                json!([{"Driver": "nvidia", "Count": -1, "Capabilities": [["gpu", "utility"]], "Options": {}}]),
            ),
        ),
        Row::body(
            "DeviceRequests, CDI",
            host(
                "DeviceRequests",
                json!([{"Driver": "cdi", "DeviceIDs": ["example.org/lab=one"]}]),
            ),
        )
        .since(44),
        Row::body("ShmSize", host("ShmSize", json!(MIB))),
        Row::body(
            "Sysctls",
            host(
                "Sysctls",
                json!({"net.ipv4.ip_unprivileged_port_start": "1", "kernel.shmmax": "1048576"}),
            ),
        ),
        Row::body("CpuCount", host("CpuCount", json!(2))),
        Row::body("CpuPercent", host("CpuPercent", json!(50))).without_effect(),
        Row::body("IOMaximumIOps", host("IOMaximumIOps", json!(100)))
            .engine_refuses("imum ", "a setting for Windows containers"),
        Row::body("IOMaximumBandwidth", host("IOMaximumBandwidth", json!(100)))
            .engine_refuses("imum ", "a setting for Windows containers"),
        Row::body("StorageOpt", host("StorageOpt", json!({"size": "1G"})))
            .until(50)
            .engine_refuses(
                "storage-opt is supported only for",
                "the engine supports it on some storage only, such as XFS with project quotas",
            ),
        Row::body(
            "StorageOpt, with the containerd image store",
            host("StorageOpt", json!({"size": "1G"})),
        )
        .since(51),
    ]
}

fn mounts() -> Vec<Row> {
    let bind = |more: Value| {
        let mut mount = json!({"Type": "bind", "Source": "@OUT/a", "Target": "/t"});
        super::compare::merge(&mut mount, &more);
        host("Mounts", json!([mount]))
    };
    let volume = |more: Value| {
        let mut mount = json!({"Type": "volume", "Source": "named", "Target": "/t"});
        super::compare::merge(&mut mount, &more);
        host("Mounts", json!([mount]))
    };
    vec![
        Row::body("Binds", host("Binds", json!(["@OUT/a:/t", "@OUT/b:/u:ro", "@OUT/a:/v:rw"]))),
        Row::body("Binds, SELinux labels", host("Binds", json!(["@OUT/a:/t:z", "@OUT/b:/u:ro,Z"]))),
        Row::body(
            "Binds, propagation",
            host(
                "Binds",
                json!([
                    "@OUT/shared:/t:rshared",
                    "@OUT/shared:/u:shared",
                    "@OUT/shared:/v:rslave",
                    "@OUT/shared:/w:slave,ro",
                    "@OUT/a:/x:private",
                    "@OUT/a:/y:rprivate",
                ]),
            ),
        ),
        Row::body("Binds, a path with dots and slashes", host("Binds", json!(["@OUT/./a//:/t//u/../v/"]))),
        Row::body(
            "Binds, over the engine's own files",
            host("Binds", json!(["@OUT/file:/etc/hosts:ro", "@OUT/file:/etc/resolv.conf", "@OUT/file:/etc/hostname"])),
        ),
        Row::body("Binds, named volumes", host("Binds", json!(["named:/t", "named:/u:ro", "other-volume:/v:nocopy"]))),
        Row::body("Volumes, anonymous", json!({"Volumes": {"/t": {}, "/slash/": {}}})).changed(
            &["/HostConfig/Binds", "/Config/Volumes", "/Mounts", "/Spec/mounts"],
            "the user container gets the action's volume, bound by name, instead of a new one",
        ),
        Row::body("Binds, anonymous volume", host("Binds", json!(["/t"]))).changed(
            &["/HostConfig/Binds", "/Mounts", "/Spec/mounts"],
            "the user container gets the action's volume, bound by name, instead of a new one",
        ),
        Row::body(
            "Mounts, anonymous volume",
            host("Mounts", json!([{"Type": "volume", "Target": "/t/", "VolumeOptions": {"NoCopy": true}}])),
        )
        .changed(
            &["/HostConfig/Mounts/0/Source", "/Mounts", "/Spec/mounts"],
            "the user container gets the action's volume, bound by name, instead of a new one",
        ),
        Row::body("Mounts, bind", bind(json!({}))),
        Row::body("Mounts, bind, ReadOnly", bind(json!({"ReadOnly": true}))),
        Row::body("Mounts, Consistency", bind(json!({"Consistency": "cached"}))),
        Row::body(
            "Mounts, BindOptions.Propagation",
            bind(json!({"Source": "@OUT/shared", "BindOptions": {"Propagation": "rshared"}})),
        ),
        Row::body("Mounts, BindOptions.NonRecursive", bind(json!({"BindOptions": {"NonRecursive": true}}))),
        Row::body(
            "Mounts, BindOptions.CreateMountpoint",
            bind(json!({"Source": "@OUT/made", "BindOptions": {"CreateMountpoint": true}})),
        )
        .since(42),
        Row::body(
            "Mounts, BindOptions.ReadOnlyNonRecursive",
            bind(json!({"ReadOnly": true, "BindOptions": {"ReadOnlyNonRecursive": true}})),
        )
        .since(44),
        Row::body(
            "Mounts, BindOptions.ReadOnlyForceRecursive",
            bind(json!({"ReadOnly": true, "BindOptions": {"ReadOnlyForceRecursive": true, "Propagation": "rprivate"}})),
        )
        .since(44),
        Row::body("Mounts, volume", volume(json!({}))),
        Row::body("Mounts, volume, ReadOnly", volume(json!({"ReadOnly": true}))),
        Row::body(
            "Mounts, VolumeOptions.NoCopy",
            volume(json!({"Source": "fresh-1", "VolumeOptions": {"NoCopy": true}})),
        ),
        Row::body(
            "Mounts, VolumeOptions.Labels",
            volume(json!({"Source": "fresh-2", "VolumeOptions": {"Labels": {"a": "b"}}})),
        ),
        Row::body(
            "Mounts, VolumeOptions.DriverConfig",
            volume(
                json!({"Source": "fresh-3", "VolumeOptions": {"DriverConfig": {"Name": "local", "Options": {"type": "tmpfs", "device": "tmpfs", "o": "size=1m"}}}}),
            ),
        ),
        Row::body("Mounts, VolumeOptions.Subpath", volume(json!({"VolumeOptions": {"Subpath": "sub"}}))).since(45),
        Row::body(
            "Mounts, tmpfs",
            host(
                "Mounts",
                json!([{"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 1_048_576, "Mode": 448}}]),
            ),
        ),
        Row::body(
            "Mounts, TmpfsOptions.Options",
            host("Mounts", json!([{"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"Options": [["noexec"]]}}])),
        )
        .since(46),
        Row::body("Mounts, image", host("Mounts", json!([{"Type": "image", "Source": "both:1", "Target": "/t"}])))
            .since(48),
        Row::body(
            "Mounts, ImageOptions.Subpath",
            host(
                "Mounts",
                json!([{"Type": "image", "Source": "both:1", "Target": "/t", "ImageOptions": {"Subpath": "bin"}}]),
            ),
        )
        .since(50),
        Row::body("Tmpfs", host("Tmpfs", json!({"/t": "size=1m,mode=700,noexec", "/u": ""}))),
        Row::body("VolumesFrom", host("VolumesFrom", json!(["other:ro"]))),
        Row::body("VolumeDriver", json!({"HostConfig": {"VolumeDriver": "local", "Binds": ["by-driver:/t"]}})),
        Row::body("ReadonlyRootfs", host("ReadonlyRootfs", json!(true))),
    ]
}

fn rights() -> Vec<Row> {
    let seccomp = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdirat"], "action": "SCMP_ACT_ERRNO"}]});
    vec![
        Row::body("Privileged", host("Privileged", json!(true))),
        Row::body("Umask", host("Umask", json!(0o77))).since(56),
        Row::body(
            "Privileged, as the agent runs it",
            json!({"HostConfig": {"Privileged": true, "PidMode": "host"}}),
        ),
        Row::body("CapAdd", host("CapAdd", json!(["NET_ADMIN", "CAP_SYS_TIME"]))),
        Row::body("CapDrop", host("CapDrop", json!(["CHOWN", "NET_RAW"]))),
        Row::body(
            "CapDrop, all",
            json!({"HostConfig": {"CapDrop": ["ALL"], "CapAdd": ["NET_BIND_SERVICE"]}}),
        ),
        Row::body(
            "SecurityOpt, no-new-privileges",
            host("SecurityOpt", json!(["no-new-privileges"])),
        ),
        Row::body("SecurityOpt, seccomp off", host("SecurityOpt", json!(["seccomp=unconfined"]))),
        Row::body(
            "SecurityOpt, a seccomp profile",
            host("SecurityOpt", json!([format!("seccomp={seccomp}")])),
        ),
        Row::body("SecurityOpt, AppArmor", host("SecurityOpt", json!(["apparmor=unconfined"]))),
        Row::body("SecurityOpt, SELinux labels", host("SecurityOpt", json!(["label=disable"]))),
        Row::body("MaskedPaths", host("MaskedPaths", json!(["/proc/kcore", "/proc/keys"]))),
        Row::body("ReadonlyPaths", host("ReadonlyPaths", json!(["/proc/sys"]))),
        Row::body(
            "MaskedPaths and ReadonlyPaths, none",
            json!({"HostConfig": {"MaskedPaths": [], "ReadonlyPaths": []}}),
        ),
        // HookOS has cgroup v2, where a private cgroup namespace is the default.
        Row::body("CgroupnsMode, host", host("CgroupnsMode", json!("host")))
            .without_effect_on(&[System::DockerOld, System::DockerNew]),
        Row::body("CgroupnsMode, private", host("CgroupnsMode", json!("private")))
            .without_effect_on(&[System::HookOS]),
        Row::body("IpcMode, host", host("IpcMode", json!("host"))),
        Row::body("IpcMode, private", host("IpcMode", json!("private"))).without_effect(),
        Row::body("IpcMode, shareable", host("IpcMode", json!("shareable"))),
        Row::body("IpcMode, none", host("IpcMode", json!("none"))),
        Row::body("IpcMode, container:X", host("IpcMode", json!("container:other"))),
        Row::body("PidMode, host", host("PidMode", json!("host"))),
        Row::body("PidMode, container:X", host("PidMode", json!("container:other"))),
        Row::body("UTSMode, host", host("UTSMode", json!("host"))),
        Row::body("UsernsMode, host", host("UsernsMode", json!("host"))),
        Row::body("Cgroup", host("Cgroup", json!("container:other"))),
        Row::body("GroupAdd", host("GroupAdd", json!(["10", "1234"]))),
        Row::body("Init", host("Init", json!(true))),
        Row::body("Runtime", host("Runtime", json!("other"))),
        Row::body("Isolation", host("Isolation", json!("default"))),
        Row::body("Annotations", host("Annotations", json!({"a": "b", "org.example/c": "d"})))
            .since(43),
        Row::body("ConsoleSize", json!({"Tty": true, "HostConfig": {"ConsoleSize": [40, 120]}})),
        Row::body(
            "LogConfig, json-file with options",
            host(
                "LogConfig",
                json!({"Type": "json-file", "Config": {"max-size": "1m", "max-file": "2", "tag": "t", "labels": "a"}}),
            ),
        ),
        Row::body(
            "LogConfig, local",
            host("LogConfig", json!({"Type": "local", "Config": {"max-size": "1m"}})),
        ),
        Row::body("LogConfig, none", host("LogConfig", json!({"Type": "none"}))),
        Row::body(
            "LogConfig, syslog",
            host(
                "LogConfig",
                json!({"Type": "syslog", "Config": {"syslog-address": "udp://127.0.0.1:5514", "tag": "t"}}),
            ),
        ),
        Row::body(
            "LogConfig, non-blocking",
            host(
                "LogConfig",
                json!({"Type": "json-file", "Config": {"mode": "non-blocking", "max-buffer-size": "1m"}}),
            ),
        ),
    ]
}

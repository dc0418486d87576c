//! The systems that the tests run on, each with its engine, PID 1 and cgroups.

use std::path::PathBuf;

use crate::paths;

/// A kind of machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum System {
    /// HookOS as it ships: Docker 28.2.2 with containerd 1.7.27 in a mount namespace of its own, so
    /// that PID 1 sees the socket only at /run/docker/docker.sock; containers log to syslog; cgroup
    /// v2; BusyBox init.
    HookOS,
    /// Debian's Docker 20.10; cgroups as this machine has them.
    DockerOld,
    /// The newest Docker Engine of the Go module proxy, with the containerd image store.
    DockerNew,
    /// CaptainOS as it ships: containerd and nerdctl 2.2.1 under systemd; cgroup v2.
    CaptainOS,
    /// CaptainOS with nerdctl 2.3.5 and the newest containerd that the Go module proxy has.
    CaptainNext,
    /// CaptainOS's engine under BusyBox init; cgroup v1.
    CaptainV1,
}

impl System {
    /// Every system.
    pub const ALL: [Self; 6] = [
        Self::HookOS,
        Self::DockerOld,
        Self::DockerNew,
        Self::CaptainOS,
        Self::CaptainNext,
        Self::CaptainV1,
    ];
    /// The systems with a Docker Engine.
    pub const DOCKER: [Self; 3] = [Self::HookOS, Self::DockerOld, Self::DockerNew];
    /// The systems with containerd and nerdctl.
    pub const CONTAINERD: [Self; 3] = [Self::CaptainOS, Self::CaptainNext, Self::CaptainV1];

    /// The system's name in commands and cases.
    pub fn name(self) -> &'static str {
        match self {
            Self::HookOS => "hook",
            Self::DockerOld => "docker-old",
            Self::DockerNew => "docker-new",
            Self::CaptainOS => "captain",
            Self::CaptainNext => "captain-next",
            Self::CaptainV1 => "captain-v1",
        }
    }

    /// The system with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|system| system.name() == name)
    }

    /// True if it has a Docker Engine.
    pub fn is_docker(self) -> bool {
        Self::DOCKER.contains(&self)
    }

    /// The engine that it runs, for people.
    pub fn engine(self) -> &'static str {
        match self {
            Self::HookOS => "Docker 28.2.2",
            Self::DockerOld => "Docker 20.10",
            Self::DockerNew => "moby 2.0 beta",
            Self::CaptainOS | Self::CaptainV1 => "nerdctl 2.2.1",
            Self::CaptainNext => "nerdctl 2.3.5",
        }
    }

    /// The minor version of the Docker Engine API 1 that it supports, or of its nerdctl 2.
    pub fn api(self) -> u32 {
        match self {
            Self::HookOS => 50,
            Self::DockerOld => 41,
            Self::DockerNew => 56,
            Self::CaptainOS | Self::CaptainV1 => 2,
            Self::CaptainNext => 3,
        }
    }

    /// The dockerd to run, and the folder that is searched first for its containerd.
    pub(crate) fn dockerd(self) -> (PathBuf, PathBuf) {
        let cached =
            |name: &str| (paths::cache().join(name).join("dockerd"), paths::cache().join(name));
        match self {
            Self::HookOS => cached("docker28"),
            Self::DockerNew => {
                (paths::cache().join("docker-new/dockerd"), paths::cache().join("containerd-next"))
            }
            _ => ("/usr/sbin/dockerd".into(), PathBuf::new()),
        }
    }

    /// The folder in which PID 1 sees what the engine calls /run.
    pub fn run_folder(self) -> &'static str {
        if self == Self::HookOS { "/run/docker" } else { "/run" }
    }
}

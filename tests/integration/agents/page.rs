//! docs/compatibility.md, made from the cases: the page lists exactly what the cases ran.

use std::fmt::Write;

use lab::agent::Version;
use lab::system::System;

use super::{CASES, OSIES, ways};
use crate::{case, docs};

case!(page_is_the_cases, || docs::is_made("docs/compatibility.md", &page()));

const INTRODUCTION: &str = "# Compatibility

`make docs` generates this page from the cases in tests/integration/agents, which `make test` runs. Each case uses the real Tink Agent of its release and the real engine, on a machine of its own. The server is a stand-in that speaks Tinkerbell's gRPC protocol. That protocol is the same in every release, except for one more field since v0.25 (`namespaces`). `make e2e` runs the real server of v0.25.

## Tinkerbell, OSIE and engine

| Tinkerbell | OSIE | engine | result | test |
| --- | --- | --- | --- | --- |
";

const AFTER_THE_TABLE: &str = "| v0.22 | HookOS | Docker | not tested: the Go module proxy did not serve that release. On 2026-11-29 the agent v0.22.1, built by hand from its tag, passed the same cases on Docker 20.10 and a beta of moby 2 | - |
| v0.22 | CaptainOS | containerd | does not exist: v0.23 is the first release with CaptainOS, and on containerd the agent of v0.22 gives a container neither volumes nor a network (read: tink/agent/internal/runtime/containerd) | - |

`make test ONE=captain::agents::v0_23` runs one row. \"Works\" means that each of these cases passed:

";

const SHIPPED: &str = "
`make test` also covers other engines, with the agent of v0.25. On the newest Docker Engine with the containerd image store (`docker-new`) it runs every case. On Docker 20.10 (`docker-old`), on nerdctl 2.3.5 with containerd 2.4 (`captain-next`) and on cgroup v1 (`captain-v1`) it runs the cases that can differ there; `make soak` runs the whole table of settings on these too.

What the OSIEs ship, according to their repositories in 2026-11: HookOS v0.10.0 has Docker 26.1.0, and v0.11.0 and v0.11.1 have 28.2.2. CaptainOS has containerd 2.2.1 and nerdctl 2.2.1. Tinkerbell's chart serves HookOS v0.11.1 from v0.22 to v0.25. From v0.23 on it also serves CaptainOS v0.1.0, if that is enabled.

## What the agents do differently

*Run* names the case that checks an agent for it. *Read* names the file in Tinkerbell's repository, at the tag of each release.

";

const AFTER_THE_AGENTS: &str = "
`pid: host` at the action's top level works with every release.

On Docker every agent since v0.23 copies an action's output into its own log. The last lines may be missing there, because the agent stops reading once the container has ended (seen with v0.23.0). HookOS's engine sends all of the output to syslog.

On containerd, with every release, an action that exceeds its `timeout` may be reported as FAILED instead of TIMEOUT, and keep running. This happens if the agent mistakes the end of its own wait for the end of the action: then it ends nothing and keeps the container (run: `timeout_during_a_pull`, `timeout_after_arming`, in about one of four; read: tink/agent/internal/runtime/containerd/containerd.go, the `select` in Execute). Whatever such an action still does has no effect: a waiter that it arms waits 90 s for the agent to delete the container, then removes your container and itself.

`background: true` is meant to report an action as `SUCCESS` before it runs. The field exists only in the API v1alpha2, which no part of v0.25.0 reads (read: api/v1alpha2/tinkerbell/task.go, crd/crd.go). In that API `command` is meant to replace the image's ENTRYPOINT, and `args` holds the arguments. waitdaemon's arguments will then belong in `args`.

### Registries of your own

After v0.25.0, and not yet in a release (read: commit 9abc64f7, 2026-08-16), the agent's containerd runtime reads registry settings from /etc/containerd/certs.d for the action's own image. Earlier releases do not. With them, waitdaemon's image must come from a registry that containerd trusts without these settings. IMAGE is pulled by nerdctl, which does read them.

## arm64

Every image is built for amd64 and arm64, as HookOS and CaptainOS are. `make test-machines-arm64` boots emulated arm64 machines of both kinds, with engines and agent built for arm64, and takes the README's reboot, and a kexec without `IMAGE`, to the machine's end (tests/machines). `make test` runs the arm64 program on Docker under an emulator (run: `release::other_architecture_hands_over`). The other cases have been run on amd64 only.

A kexec without `IMAGE` needs a kernel with `CONFIG_KEXEC_FILE`. HookOS's and CaptainOS's kernels for arm64 have it (read: kernel/configs/generic-6.6.y-aarch64 and kernel.configs/6.18.y.arm64 in their repositories); Debian's kernels for arm64 lack it (6.1, 6.12 and 7.2, read in their configuration). On such a machine the action fails before `SUCCESS` and says so.

## Not supported

| what | why |
| --- | --- |
| Podman | no OSIE ships it, and the Tink Agent cannot run an action on it: the agent's runtimes are Docker, containerd and, from v0.25, Kubernetes (read: tink/agent/agent.go). `CONTAINER_RUNTIME: podman` is refused with exit code 78 (run: `hook::bad_input::several_problems_at_once`) |
| the agent's Kubernetes runtime (`--runtime kubernetes`, from v0.25) | cannot work: it refuses an action with `pid: host`, with `namespaces` or with volumes before waitdaemon starts, and runs everything else as an unprivileged Job in a cluster, which has access neither to the engine nor to the machine that should reboot (read: tink/agent/internal/runtime/kubernetes/kubernetes.go) |

## EKS Anywhere

Its Tinkerbell server is patched: an action with `reboot` in its name is recorded as `SUCCESS` as soon as it is RUNNING (read: aws/eks-anywhere-build-tooling, projects/tinkerbell/tinkerbell/patches/0002-Auto-patch-reboot-action-to-success.patch, on a commit between v0.22.1 and v0.23). `SUCCESS` then says nothing about the handoff, and an error from waitdaemon comes too late. Choose another name, such as `\"last\"`.
";

/// The name and the engine of an OSIE, for the page.
fn of(system: System) -> (&'static str, &'static str) {
    if system.is_docker() {
        (
            "HookOS: BusyBox init; the engine has its own mount namespace",
            "Docker 28.2.2, containerd 1.7.27",
        )
    } else {
        ("CaptainOS: systemd", "containerd 2.2.1, nerdctl 2.2.1")
    }
}

/// The common prefix of the names of an agent's cases on a system.
fn prefix(version: Version, system: System) -> String {
    format!("{}::agents::{}", system.name(), version.name().replace('.', "_"))
}

/// A difference between agents.
struct Difference {
    what: &'static str,
    /// The way of the releases before v0.25 or v0.24, and the way since then.
    ways: (&'static str, &'static str),
    /// True for the releases that have the second way.
    newer: fn(Version) -> bool,
    source: &'static str,
}

fn differences() -> [Difference; 6] {
    [
        Difference {
            what: "`namespaces: {network: host}` in the Template",
            ways: ("silently ignored", "reaches the action's container"),
            newer: |version| ways(version).namespaces,
            source: "run: `benign_command_runs_once`; read: pkg/proto/get_action_response.proto",
        },
        Difference {
            what: "containerd: the container of an action that failed or timed out",
            ways: ("deleted, as after success", "kept for `nerdctl logs`"),
            newer: |version| ways(version).keeps_failed,
            source: "run: `a_failed_action_runs_nothing` (with its log), `timeout_after_arming`",
        },
        Difference {
            what: "a report that does not reach the server",
            ways: ("tried once: the Workflow stays RUNNING", "tried until the server takes it"),
            newer: |version| ways(version).reports_again,
            source: "run: `the_server_is_away_at_the_report`; read: tink/agent/agent.go",
        },
        Difference {
            what: "an action that is RUNNING when an agent asks",
            ways: (
                "not served again: the Workflow hangs",
                "served again: an endless loop if it reboots before its report",
            ),
            newer: |version| version >= Version::V0_24,
            source: "read: tink/server/internal/grpc/grpc.go",
        },
        Difference {
            what: "containerd: labels on the action's container",
            ways: (
                "`nerdctl/name`, `extraHosts`, `hostname`",
                "also `namespace`, `log-uri`, `state-dir`, so `nerdctl logs` works",
            ),
            newer: |version| version >= Version::V0_24,
            source: "read: tink/agent/internal/runtime/containerd/containerd.go",
        },
        Difference {
            what: "containerd: what an action prints",
            ways: (
                "only in the agent's own output",
                "also in the container's log, which is deleted with the container on success",
            ),
            newer: |version| version >= Version::V0_24,
            source: "read: the same file",
        },
    ]
}

fn page() -> String {
    let mut text = String::from(INTRODUCTION);
    for version in Version::ALL {
        for system in OSIES {
            let (release, (osie, engine)) = (version.name(), of(system));
            let _ = writeln!(
                text,
                "| {release} | {osie} | {engine} | works | `{}` |",
                prefix(version, system)
            );
        }
    }
    text += AFTER_THE_TABLE;
    for (name, what) in CASES {
        let _ = writeln!(text, "- `{name}`: {what}");
    }
    text += SHIPPED;
    let versions = || Version::ALL.into_iter().rev();
    let names: Vec<&str> = versions().map(Version::name).collect();
    let _ = writeln!(
        text,
        "| | {} | source |\n| --- |{} --- |",
        names.join(" | "),
        " --- |".repeat(names.len())
    );
    for Difference { what, ways, newer, source } in differences() {
        let cells: Vec<&str> =
            versions().map(|version| if newer(version) { ways.1 } else { ways.0 }).collect();
        let _ = writeln!(text, "| {what} | {} | {source} |", cells.join(" | "));
    }
    text += AFTER_THE_AGENTS;
    text
}

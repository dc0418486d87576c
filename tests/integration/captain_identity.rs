//! Which container are we, on containerd? Right, or a failure; never another one.

use anyhow::{Result, bail, ensure};
use lab::captain::{Captain, Init};
use lab::paths;

use crate::fidelity::PlainCase;
use crate::world::{ACTION, USER, WAITER, images, own_image};

/// One case for each version of cgroups.
pub fn cases() -> Vec<PlainCase> {
    let case = |init: Init| (format!("{}::identity_matrix", init.name()), Box::new(move || matrix(init)) as _);
    Init::ALL.map(case).into()
}

/// What becomes of a combination.
#[derive(PartialEq)]
enum Is {
    Right,
    /// The handoff fails: nothing proves which container it is.
    Unproved,
}

/// What moves, hides or fakes the usual traces; with the host's nerdctl (`HOST`) or one inside (`OWN`).
const MATRIX: [(&[&str], Is); 18] = [
    (&["HOST"], Is::Right),
    (&["HOST", "--network=host"], Is::Right),
    (&["HOST", "--network=none"], Is::Right),
    (&["HOST", "--network=container:decoy"], Is::Right),
    (&["HOST", "--uts=host"], Is::Right),
    (&["HOST", "--network=host", "--hostname=decoy"], Is::Right),
    (&["HOST", "--cgroupns=private"], Is::Right),
    (&["HOST", "--cgroupns=host"], Is::Right),
    (&["HOST", "--hostname=DECOY-ID"], Is::Right),
    (&["HOST", "--read-only", "--log-driver=none"], Is::Right),
    (&["HOST", "--ipc=container:decoy", "--network=container:decoy", "--cgroupns=private"], Is::Right),
    (&["OWN", "--cgroupns=host"], Is::Right),
    (&["OWN", "--cgroupns=private"], Is::Right),
    (&["OWN", "--cgroupns=private", "--hostname=DECOY-ID"], Is::Right),
    (&["OWN", "--cgroupns=private", "--pid=container:decoy", "--network=container:decoy"], Is::Right),
    (&["OWN", "--cgroupns=private", "--network=host", "--hostname=decoy"], Is::Right),
    (&["OWN", "--cgroupns=host", "--network=host", "--log-driver=none"], Is::Right),
    (&["OWN", "--cgroupns=private", "--network=container:decoy", "--log-driver=none"], Is::Unproved),
];

fn matrix(init: Init) -> Result<()> {
    let captain = Captain::boot_with(init)?;
    captain.load(&own_image())?;
    captain.load(&paths::root().join("dist/waitdaemon-nerdctl.tar"))?;
    captain.load(&images().join("alpine.tar"))?;
    captain.load(&images().join("decoy.tar"))?;
    // Its command line is waitdaemon's without arguments.
    let run = ["run", "-d", "--name=decoy", "--ipc=shareable", "--privileged", "--env=MARK=decoy", "decoy:1"];
    let decoy = captain.nerdctl(&run)?;
    for (flags, expected) in &MATRIX {
        let (image, needed) = match flags[0] {
            "HOST" => ("waitdaemon:dev", vec!["--privileged", "--pid=host"]),
            _ => ("waitdaemon:dev-nerdctl", crate::fidelity::INSIDE.to_vec()),
        };
        let flags: Vec<String> = flags[1..].iter().map(|flag| flag.replace("DECOY-ID", &decoy[..12])).collect();
        let mut run = captain.nerdctl_command();
        run.args(["run", "-d", &format!("--name={ACTION}")]).args(&needed).args(&flags);
        run.args(["--env=IMAGE=alpine", "--env=WAIT_SECONDS=60", "--env=MARK=mine", image]);
        let started = lab::nest::output(&mut run)?;
        ensure!(started.status.success(), "{flags:?}: {}", String::from_utf8_lossy(&started.stderr));
        let code = captain.nerdctl(&["wait", ACTION])?;
        let said = || -> Result<String> {
            let said = lab::nest::output(captain.nerdctl_command().args(["logs", ACTION]))?;
            Ok(String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned())
        };
        match (code.as_str(), expected) {
            ("0", Is::Right) => {
                let user = captain.inspect(USER)?;
                let environment = user["Spec"]["process"]["env"].to_string();
                ensure!(environment.contains("\"MARK=mine\""), "{flags:?}: a copy of another container: {user}");
            }
            ("1", Is::Unproved) => ensure!(captain.inspect(USER).is_err(), "{flags:?}: a user container is left"),
            _ => bail!("{flags:?}: exit code {code}: {}", said()?),
        }
        for name in [WAITER, USER, ACTION] {
            lab::nest::output(captain.nerdctl_command().args(["rm", "-f", name]))?;
        }
    }
    Ok(())
}

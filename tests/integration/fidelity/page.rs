//! docs/fidelity.md, made from the rows: it says what the cases have seen.

use std::fmt::Write;

use lab::system::System;

use crate::{case, docs};

use super::rows::{Expect, Row};
use super::{docker_rows, nerdctl_rows};

case!(page_is_the_rows, || docs::is_made("docs/fidelity.md", &page()));

/// An engine's column: its heading and the rows that it covers.
type Column = (String, Box<dyn Fn(&Row) -> bool>);

fn page() -> String {
    let knows = |system: System| {
        let api = system.api();
        Box::new(move |row: &Row| row.is_in(api)) as Box<dyn Fn(&Row) -> bool>
    };
    let docker = System::DOCKER.map(|system| -> Column {
        (format!("{}, API 1.{}", system.engine(), system.api()), knows(system))
    });
    let nerdctl = [System::CaptainOS, System::CaptainNext]
        .map(|system| -> Column { (system.engine().into(), knows(system)) });
    let mut text = String::from(INTRODUCTION);
    let of_docker: Vec<_> =
        docker_rows::GROUPS.iter().map(|(name, rows)| (*name, rows())).collect();
    let of_nerdctl: Vec<_> =
        nerdctl_rows::GROUPS.iter().map(|(name, rows)| (*name, rows())).collect();
    text += "| | carried | changed on purpose | refused before SUCCESS | refused by the engine for the action itself | lost |\n";
    text += "| --- | --- | --- | --- | --- | --- |\n";
    count(&mut text, &docker, &of_docker);
    count(&mut text, &nerdctl, &of_nerdctl);
    text += "\n## Docker: the settings of `POST /containers/create`\n";
    tables(&mut text, &docker, &of_docker);
    text += "\n## containerd: the flags of `nerdctl create`\n\nThe agent's own containers use only some of them.\n";
    tables(&mut text, &nerdctl, &of_nerdctl);
    text += LATER;
    text
}

const LATER: &str = "
## What changes during the wait

`fidelity::later::a_device_of_a_privileged_action` tests this.

| | Docker | containerd |
| --- | --- | --- |
| a device node that is created after the handoff, for a privileged action | visible: the engine lists devices when it starts a container | not visible, because nerdctl lists devices when it creates a container; visible with the volume `/dev:/dev` |
";

const INTRODUCTION: &str = "# What the user container gets

`make docs` generates this page from the rows in tests/integration/fidelity. `make test` runs each row on HookOS, the newest Docker Engine and CaptainOS, and `make soak` runs them on the other versions. `make test` fails if this page does not match the rows.

How a row is proved: an action with the setting is handed over. Then the engine itself gets the action's own request, with IMAGE in place of waitdaemon's image. The user container must match the container that results: in what `inspect` shows, and in the OCI specification that the runtime gets. A row whose setting has no effect fails.

";

/// Adds one line of counts for each column.
fn count(text: &mut String, columns: &[Column], groups: &[(&str, Vec<Row>)]) {
    for (name, has) in columns {
        let mut counts = [0; 4];
        for row in groups.iter().flat_map(|(_, rows)| rows).filter(|row| has(row)) {
            counts[match row.expect {
                Expect::Carried => 0,
                Expect::Changed(..) => 1,
                Expect::Refused(..) => 2,
                Expect::EngineRefuses(..) => 3,
            }] += 1;
        }
        let [carried, changed, refused, engine] = counts;
        let _ = writeln!(text, "| {name} | {carried} | {changed} | {refused} | {engine} | 0 |");
    }
}

fn tables(text: &mut String, columns: &[Column], groups: &[(&str, Vec<Row>)]) {
    for (group, rows) in groups {
        let _ = write!(text, "\n### {group}\n\n| setting |");
        for (name, _) in columns {
            let _ = write!(text, " {name} |");
        }
        let _ = writeln!(text, "\n| --- |{}", " --- |".repeat(columns.len()));
        for row in rows {
            let _ = write!(text, "| {} |", row.setting.replace('|', "\\|"));
            for (_, has) in columns {
                let _ = write!(text, " {} |", if has(row) { became(row) } else { "-".into() });
            }
            text.push('\n');
        }
    }
}

fn became(row: &Row) -> String {
    match &row.expect {
        Expect::Carried => "carried".into(),
        Expect::Changed(_, why) => format!("changed: {why}"),
        Expect::Refused(_, why) => format!("refused: {why}"),
        Expect::EngineRefuses(_, why) => format!("the engine refuses the action: {why}"),
    }
}

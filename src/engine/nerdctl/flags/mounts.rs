//! The flags for volumes and mounts. Pure.

use serde_json::Value;

use super::super::spec::{is_usual, label_json, made_by_nerdctl, mounts_asked_for};
use super::{Flags, Host, NAME_FILES, NotCarried, RIGHTS_OF_MOUNTS, WITHOUT_EFFECT};
use crate::engine::json::{cleaned, list, text};

/// How a mount can relate to its source (mount_namespaces(7)).
const PROPAGATIONS: [&str; 6] = ["private", "rprivate", "shared", "rshared", "slave", "rslave"];

impl Flags {
    pub(super) fn mounts(
        &mut self,
        action: &Value,
        own: &Value,
        host: &dyn Host,
    ) -> Result<(), NotCarried> {
        if made_by_nerdctl(action) {
            self.labelled_mounts(action, own)
        } else {
            self.mounts_of_spec(&action["Spec"], host)
        }
    }

    /// Copies the mounts from nerdctl's label: the spec alone does not give a volume's name.
    fn labelled_mounts(&mut self, action: &Value, own: &Value) -> Result<(), NotCarried> {
        let anonymous = label_json(action, "nerdctl/anonymous-volumes");
        for mount in &mounts_asked_for(action) {
            let (name, target, mode) =
                (text(&mount["Name"]), text(&mount["Destination"]), text(&mount["Mode"]));
            if list(&anonymous).iter().any(|volume| volume == name)
                && own["Volumes"].get(target).is_some()
            {
                continue;
            }
            if mount["Type"] == "tmpfs" {
                self.say("tmpfs", format!("{target}:{mode}").trim_end_matches(':'));
            } else {
                let source = if name.is_empty() { text(&mount["Source"]) } else { name };
                self.volume(source, target, mode)?;
            }
        }
        Ok(())
    }

    fn mounts_of_spec(&mut self, spec: &Value, host: &dyn Host) -> Result<(), NotCarried> {
        let mounts = list(&spec["mounts"]);
        for (index, mount) in mounts.iter().enumerate() {
            let (kind, target, source) =
                (text(&mount["type"]), text(&mount["destination"]), text(&mount["source"]));
            let agents_own = NAME_FILES.contains(&target) && source.contains("/tink-dns-");
            // A later mount on the same place hides this one: a volume on /run hides the agent's.
            let hidden = mounts[index + 1..]
                .iter()
                .any(|later| cleaned(text(&later["destination"])) == cleaned(target));
            if is_usual(mount) || agents_own || hidden {
                continue;
            }
            let options: Vec<&str> = list(&mount["options"]).iter().map(text).collect();
            match kind {
                "bind" | "none" => {
                    // nerdctl refuses duplicates and drops options without effect; `rw` is the
                    // default.
                    let mut said: Vec<&str> = Vec::new();
                    let has_effect = |option: &&str| {
                        !["bind", "rw"].contains(option) && !WITHOUT_EFFECT.contains(option)
                    };
                    for option in options.into_iter().filter(has_effect) {
                        if !said.contains(&option) {
                            said.push(option);
                        }
                    }
                    // With a third part nerdctl adds `rprivate`. The action's mount has runc's
                    // default instead: it is the source's slave, if that propagates.
                    if said == ["rbind"] {
                        said.clear();
                    } else if !said.iter().any(|option| PROPAGATIONS.contains(option))
                        && host.propagates(source)
                    {
                        said.push("rslave");
                    }
                    self.volume(source, target, &said.join(","))?;
                }
                "tmpfs" => {
                    // nerdctl adds the negative options unless the positive ones are given.
                    let said = |option: &str| options.contains(&option);
                    let rights =
                        RIGHTS_OF_MOUNTS.iter().filter(|(not, right)| !said(not) && !said(right));
                    let all: Vec<&str> =
                        options.iter().copied().chain(rights.map(|(_, right)| *right)).collect();
                    self.say("tmpfs", format!("{target}:{}", all.join(",")));
                }
                _ => return Err(NotCarried(format!("the mount of type {kind} on {target}"))),
            }
        }
        Ok(())
    }

    fn volume(&mut self, source: &str, target: &str, mode: &str) -> Result<(), NotCarried> {
        if source.contains(':') || target.contains(':') {
            return Err(NotCarried(format!(
                "the volume {source} on {target}: there is a colon in its path"
            )));
        }
        self.say("volume", format!("{source}:{target}:{mode}").trim_end_matches(':'));
        Ok(())
    }
}

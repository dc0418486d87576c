//! The flags for limits, sysctls and block I/O devices. Pure.

use serde_json::Value;

use super::super::spec::{nothing, quoted};
use super::{Flags, Host, NotCarried, USUAL_SYSCTL};
use crate::engine::json::text;

impl Flags {
    pub(super) fn resources(&mut self, linux: &Value, host: &dyn Host) -> Result<(), NotCarried> {
        let known = [
            ("memory", "limit", "memory"),
            ("memory", "reservation", "memory-reservation"),
            ("memory", "swap", "memory-swap"),
            ("memory", "swappiness", "memory-swappiness"),
            ("memory", "disableOOMKiller", "oom-kill-disable"),
            ("cpu", "shares", "cpu-shares"),
            ("cpu", "quota", "cpu-quota"),
            ("cpu", "period", "cpu-period"),
            ("cpu", "realtimePeriod", "cpu-rt-period"),
            ("cpu", "realtimeRuntime", "cpu-rt-runtime"),
            ("cpu", "cpus", "cpuset-cpus"),
            ("cpu", "mems", "cpuset-mems"),
            ("pids", "limit", "pids-limit"),
            ("blockIO", "weight", "blkio-weight"),
            ("blockIO", "weightDevice", "blkio-weight-device"),
            ("blockIO", "throttleReadBpsDevice", "device-read-bps"),
            ("blockIO", "throttleWriteBpsDevice", "device-write-bps"),
            ("blockIO", "throttleReadIOPSDevice", "device-read-iops"),
            ("blockIO", "throttleWriteIOPSDevice", "device-write-iops"),
        ];
        let groups = linux["resources"].as_object().into_iter().flatten();
        for (group, values) in
            groups.filter(|(group, _)| *group != "devices" && *group != "unified")
        {
            // Fields in which 0 is a value and not "not set".
            let counts = |field: &str| field == "swappiness";
            let values = values.as_object().into_iter().flatten();
            for (field, value) in values.filter(|(field, value)| counts(field) || !nothing(value)) {
                let Some((_, _, flag)) =
                    known.iter().find(|(of, named, _)| of == group && named == field)
                else {
                    return Err(NotCarried(format!("the limit {group}.{field}")));
                };
                match value {
                    Value::Array(devices) => {
                        for limit in devices {
                            let number = |field: &str| limit[field].as_u64().unwrap_or_default();
                            let value = limit["weight"].as_u64().unwrap_or_else(|| number("rate"));
                            let path = host
                                .block_device(number("major"), number("minor"))
                                .ok_or_else(|| {
                                    NotCarried(format!(
                                        "{group}.{field}: there is no device {}:{}",
                                        limit["major"], limit["minor"]
                                    ))
                                })?;
                            self.say(flag, format!("{path}:{value}"));
                        }
                    }
                    Value::String(text) => self.say(flag, text),
                    value => self.say(flag, value.to_string()),
                }
            }
        }
        for (key, value) in linux["resources"]["unified"].as_object().into_iter().flatten() {
            self.say("cgroup-conf", quoted(&format!("{key}={}", text(value))));
        }
        for (key, value) in linux["sysctl"].as_object().into_iter().flatten() {
            if (key.as_str(), text(value)) != USUAL_SYSCTL {
                self.say("sysctl", format!("{key}={}", text(value)));
            }
        }
        if let Some(class) = linux["intelRdt"]["closID"].as_str() {
            self.say("rdt-class", class);
        }
        Ok(())
    }
}

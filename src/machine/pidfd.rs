//! How a process ended, from the kernel, even if it is not our child, or its parent has reaped it.

use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::ioctl::{Updater, ioctl, opcode};

/// `PIDFD_INFO_EXIT` (linux/pidfd.h): requests the exit code and, in the answer, says that it is
/// there. Linux 6.15 and later.
const EXIT: u64 = 1 << 3;
/// `PIDFD_GET_INFO`.
const GET_INFO: rustix::ioctl::Opcode = opcode::read_write::<PidfdInfo>(0xff, 11);

/// `struct pidfd_info` (linux/pidfd.h), in its first version.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    ids: [u32; 11],
    exit_code: i32,
}

/// Returns the exit code of a process that has ended, or 128 plus the signal's number if a signal
/// ended it. Returns `None` until its parent has reaped it. The descriptor must have been opened
/// while the process was alive.
///
/// # Errors
/// If the kernel does not tell.
pub fn exit_code(pidfd: impl AsFd) -> Result<Option<i64>, Errno> {
    let mut info = PidfdInfo { mask: EXIT, ..PidfdInfo::default() };
    ask(pidfd, &mut info)?;
    Ok((info.mask & EXIT != 0).then(|| code_of(info.exit_code)))
}

#[expect(
    unsafe_code,
    reason = "no crate has this request; its number and its structure are the kernel's, as above"
)]
fn ask(pidfd: impl AsFd, info: &mut PidfdInfo) -> Result<(), Errno> {
    // SAFETY: the kernel writes no more than the structure, whose size is in the request's number
    // (`_IOWR`).
    unsafe { ioctl(pidfd, Updater::<GET_INFO, PidfdInfo>::new(info)) }
}

/// Reads a wait(2) status. Pure.
fn code_of(status: i32) -> i64 {
    let (code, signal) = (i64::from(status >> 8 & 0xff), i64::from(status & 0x7f));
    if signal == 0 { code } else { 128 + signal }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    use super::*;

    #[test]
    fn a_status_is_read() {
        assert_eq!((code_of(0), code_of(3 << 8), code_of(9), code_of(9 | 0x80)), (0, 3, 137, 137));
    }

    #[test]
    fn the_kernel_tells_how_a_process_ended_that_was_reaped() {
        for (script, code) in [("read x", 0), ("read x; exit 7", 7), ("read x; kill -9 $$", 137)] {
            let mut child = Command::new("sh")
                .args(["-c", script])
                .stdin(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
            let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
            assert_eq!(exit_code(&pidfd), Ok(None), "it lives");
            std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"x\n").unwrap();
            let begin = std::time::Instant::now();
            while !std::fs::read_to_string(format!("/proc/{}/stat", child.id()))
                .unwrap()
                .contains(") Z ")
            {
                assert!(begin.elapsed().as_secs() < 10, "it does not end");
            }
            assert_eq!(exit_code(&pidfd), Ok(None), "it is not reaped");
            child.wait().unwrap();
            assert_eq!(exit_code(&pidfd), Ok(Some(code)), "{script}; this needs Linux 6.15");
        }
    }
}

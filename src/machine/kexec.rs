//! The kernel to which this one hands over the machine: load it, look for it, unload it
//! (kexec_file_load(2)).

use std::ffi::{CString, c_int, c_long, c_ulong};
use std::fs::File;
use std::io::{self, ErrorKind, Seek};
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};
use tokio::time::{Instant, sleep};

/// The number of kexec_file_load(2) (linux/unistd.h); the C library's own list lacks it for one of
/// the architectures.
const KEXEC_FILE_LOAD: c_long = if cfg!(target_arch = "aarch64") { 294 } else { 320 };
/// `KEXEC_FILE_UNLOAD` and `KEXEC_FILE_NO_INITRAMFS` (linux/kexec.h).
const UNLOAD: c_ulong = 1;
const NO_INITRD: c_ulong = 4;
/// The pause between two attempts to unload a kernel while another call holds the lock.
const UNLOAD_PAUSE: Duration = Duration::from_millis(100);

/// Loads a kernel with its initrds and its command line, replacing a kernel that was loaded before.
///
/// # Errors
/// If the running kernel refuses.
pub fn load(kernel: &File, initrds: &[File], command_line: &str) -> io::Result<()> {
    let line =
        CString::new(command_line).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let whole = if initrds.len() > 1 { Some(one_file(initrds)?) } else { None };
    match whole.as_ref().or(initrds.first()) {
        Some(initrd) => file_load(kernel.as_raw_fd(), initrd.as_raw_fd(), &line, 0),
        None => file_load(kernel.as_raw_fd(), -1, &line, NO_INITRD),
    }
}

/// Unloads the loaded kernel, if there is one. One that is still being loaded, by a step that a
/// signal cut off, is waited for.
///
/// # Errors
/// If the running kernel refuses, or is still loading another after this time.
pub async fn unload(limit: Duration) -> io::Result<()> {
    let end = Instant::now() + limit;
    loop {
        match file_load(-1, -1, c"", UNLOAD) {
            Err(error) if error.kind() == ErrorKind::ResourceBusy && Instant::now() < end => {
                sleep(UNLOAD_PAUSE).await;
            }
            result => return result,
        }
    }
}

/// True if a kernel is loaded, or if that cannot be known.
pub fn is_loaded() -> bool {
    std::fs::read_to_string("/sys/kernel/kexec_loaded").map_or(true, |text| text.trim() == "1")
}

/// Joins several initrds into one: the kernel unpacks them one after the other (initramfs buffer
/// format).
fn one_file(initrds: &[File]) -> io::Result<File> {
    let mut whole = File::from(memfd_create("initrd", MemfdFlags::CLOEXEC)?);
    for mut initrd in initrds {
        // They may have been read before, for a load that another attempt undid.
        initrd.rewind()?;
        io::copy(&mut initrd, &mut whole)?;
        // Each archive begins at a multiple of four.
        let end = whole.stream_position()?;
        whole.set_len(end.next_multiple_of(4))?;
        whole.seek(io::SeekFrom::End(0))?;
    }
    whole.rewind()?;
    Ok(whole)
}

#[expect(unsafe_code, reason = "no crate that is kept has this call")]
fn file_load(
    kernel: RawFd,
    initrd: RawFd,
    line: &std::ffi::CStr,
    flags: c_ulong,
) -> io::Result<()> {
    let bytes = line.to_bytes_with_nul();
    // SAFETY: the kernel reads the descriptors and the text, whose length including its end is
    // given, and keeps neither.
    let result = unsafe {
        rustix_libc_wrappers::libc::syscall(
            KEXEC_FILE_LOAD,
            kernel as c_int,
            initrd as c_int,
            bytes.len() as c_ulong,
            line.as_ptr(),
            flags,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn initrds_become_one_each_at_a_multiple_of_four() {
        let file = |content: &[u8]| {
            let mut file = File::from(memfd_create("part", MemfdFlags::CLOEXEC).unwrap());
            file.write_all(content).unwrap();
            file
        };
        let files = [file(b"one"), file(b"four"), file(b"z")];
        for attempt in 1..=2 {
            let mut content = Vec::new();
            one_file(&files).unwrap().read_to_end(&mut content).unwrap();
            assert_eq!(content, b"one\0fourz\0\0\0", "attempt {attempt}");
        }
    }
}

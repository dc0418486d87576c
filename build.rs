//! Keeps what only unwinding needs out of the static program: a panic aborts, so nothing unwinds.
//! Also puts together what a waiter does not run (program.ld).
//!
//! This saves 250 KB of 1450: LLVM's unwinder with the C library's printf, and every function's
//! unwind table (measured on x86_64; docs/dependencies.md).

/// The unwinder's functions that Rust's standard library calls. Each call ends the program, as the
/// panic before it would.
const UNWINDER: [&str; 14] = [
    "Backtrace",
    "DeleteException",
    "FindEnclosingFunction",
    "GetCFA",
    "GetDataRelBase",
    "GetIP",
    "GetIPInfo",
    "GetLanguageSpecificData",
    "GetRegionStart",
    "GetTextRelBase",
    "RaiseException",
    "Resume",
    "SetGR",
    "SetIP",
];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=program.ld");
    let set = |name: &str| std::env::var(name).unwrap_or_default();
    // Only for the program that goes into the image; tests unwind.
    if set("CARGO_CFG_TARGET_ENV") != "musl" {
        return;
    }
    // A compiler that links passes on what follows -Wl; a linker takes the option as it is.
    let prefix = if set("RUSTC_LINKER").contains("lld") { "" } else { "-Wl," };
    for function in UNWINDER {
        println!("cargo:rustc-link-arg-bins={prefix}--defsym=_Unwind_{function}=abort");
    }
    // This function names a thread with the C library's printf: 10 KB for a name that nobody reads.
    // The thread yields instead.
    println!("cargo:rustc-link-arg-bins={prefix}--defsym=pthread_setname_np=sched_yield");
    // src/backtrace.rs defines one of them too; the first definition counts.
    println!("cargo:rustc-link-arg-bins={prefix}--allow-multiple-definition");
    println!("cargo:rustc-link-arg-bins={prefix}--no-eh-frame-hdr");
    println!("cargo:rustc-link-arg-bins={prefix}--script={}/program.ld", set("CARGO_MANIFEST_DIR"));
}

//! Leaves out of the static program what only unwinding needs: a panic aborts, so nobody unwinds. And puts together what a
//! waiter does not run (program.ld).
//!
//! That is 250 KB of 1450: the unwinder of LLVM with the C library's printf, and every function's unwind table
//! (measured on x86_64; docs/dependencies.md).

/// What Rust's standard library calls of the unwinder. Each call ends the program, as the panic before it would.
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
    // Only the program that goes into the image; tests unwind.
    if set("CARGO_CFG_TARGET_ENV") != "musl" {
        return;
    }
    // A compiler that links passes on what stands behind -Wl; a linker takes it as it is.
    let prefix = if set("RUSTC_LINKER").contains("lld") { "" } else { "-Wl," };
    for function in UNWINDER {
        println!("cargo:rustc-link-arg-bins={prefix}--defsym=_Unwind_{function}=abort");
    }
    // src/backtrace.rs has one of them too: the first counts.
    println!("cargo:rustc-link-arg-bins={prefix}--allow-multiple-definition");
    println!("cargo:rustc-link-arg-bins={prefix}--no-eh-frame-hdr");
    println!("cargo:rustc-link-arg-bins={prefix}--script={}/program.ld", set("CARGO_MANIFEST_DIR"));
}

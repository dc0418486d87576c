//! Keeps Rust's backtrace code out of the program: 110 KB of the standard library that reads
//! debugging information, which a stripped program does not have (docs/dependencies.md).
//!
//! The library walks the stack with one function of the unwinder and passes the reading code to it.
//! This module defines that function with no stack to walk, so the linker sees that the code never
//! runs. The only way to do so is to define the symbol, which counts as unsafe because another
//! library could define the same name. build.rs leaves the real function out.

use std::ffi::{c_int, c_void};

/// `_URC_END_OF_STACK` of the Itanium C++ ABI.
const END_OF_STACK: c_int = 5;

/// Reports the end of the stack at once and never calls back. The Itanium C++ ABI (level II)
/// specifies `_Unwind_Backtrace`.
#[expect(
    unsafe_code,
    reason = "no other way on stable Rust; the only caller is Rust's standard library"
)]
#[unsafe(no_mangle)]
pub extern "C" fn _Unwind_Backtrace(_call: *const c_void, _with: *mut c_void) -> c_int {
    END_OF_STACK
}

//! Leaves out of the program what a backtrace takes: 110 KB of Rust's standard library that reads debugging
//! information, of which a stripped program has none (docs/dependencies.md).
//!
//! The library walks the stack with one function of the unwinder, to which it gives the code that reads. This is that
//! function, with no stack to walk, so the linker sees that the code is never run. There is no way to say this without
//! defining the symbol, which counts as unsafe: the name could be another's. build.rs leaves the real one out.

use std::ffi::{c_int, c_void};

/// `_URC_END_OF_STACK` of the Itanium C++ ABI.
const END_OF_STACK: c_int = 5;

/// Walks no stack; for what it shall call, see `_Unwind_Backtrace` of the Itanium C++ ABI (level II).
#[expect(unsafe_code, reason = "no other way on stable Rust; the only caller is Rust's standard library")]
#[unsafe(no_mangle)]
pub extern "C" fn _Unwind_Backtrace(_call: *const c_void, _with: *mut c_void) -> c_int {
    END_OF_STACK
}

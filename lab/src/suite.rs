//! Runs the cases of a suite, and those that failed once more, alone.
//!
//! Cases run beside each other on few processors, so a case can fail for want of time alone. A
//! case that fails by itself as well fails the suite; one that then passes is named, with what it
//! said at first, and is worth a look: it may have found a race.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use libtest_mimic::{Arguments, Conclusion, Failed, Trial};

/// More failures than these, or than one case in [`FEW_OF`], have a cause that a second run would
/// only show again.
const FEW: usize = 5;
const FEW_OF: usize = 10;

/// A case that can run more than once.
#[derive(Clone)]
pub struct Case {
    /// The case's full name.
    pub name: String,
    /// Runs the case.
    pub run: Arc<dyn Fn() -> Result<()> + Send + Sync>,
}

/// Runs the cases and returns the conclusion that counts: if only a few cases of the whole suite
/// fail, that of their second run.
pub fn run(arguments: &Arguments, cases: &[Case]) -> Conclusion {
    let failed: Arc<Mutex<Vec<String>>> = Arc::default();
    let trial = |case: &Case| {
        let (case, failed) = (case.clone(), failed.clone());
        Trial::test(case.name.clone(), move || {
            (case.run)().map_err(|error| {
                failed.lock().unwrap_or_else(PoisonError::into_inner).push(case.name);
                Failed::from(format!("{error:#}"))
            })
        })
    };
    let conclusion = libtest_mimic::run(arguments, cases.iter().map(trial).collect());
    let names = std::mem::take(&mut *failed.lock().unwrap_or_else(PoisonError::into_inner));
    let whole = arguments.filter.is_none() && arguments.skip.is_empty();
    if !whole || names.is_empty() || names.len() > FEW.min(cases.len() / FEW_OF) {
        return conclusion;
    }
    println!("once more, alone, what failed beside others: {}", names.join(", "));
    let again = cases.iter().filter(|case| names.contains(&case.name)).map(trial).collect();
    libtest_mimic::run(&Arguments { test_threads: Some(1), ..arguments.clone() }, again)
}

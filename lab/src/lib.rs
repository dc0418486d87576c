//! Machines, engines and images for the demo and the tests.

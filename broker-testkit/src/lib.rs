//! Under construction.
pub mod conformance;
pub mod local;

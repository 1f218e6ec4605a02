//! Under construction.
pub mod local;

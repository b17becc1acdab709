//! Who gets which subnet and which AS number: pure decisions over what was given out before.
//!
//! [`pool`] gives subnets of pools to nodes; [`numbers`] gives AS numbers of a range. Both take the
//! whole of what is held and the whole of what is wanted, and return the changes that lead from one
//! to the other. Nothing here reads a clock or keeps state: the controller commits the changes to
//! its store before anybody hears of them.

pub mod numbers;
pub mod pool;

mod problem;
mod settle;
mod span;

#[cfg(test)]
mod tests;

/// A moment, in milliseconds since the Unix epoch. Wall-clock time, because a grace time must go on
/// while the controller is not running.
pub type Millis = u64;

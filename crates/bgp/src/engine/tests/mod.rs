//! The engine with peers that are scripts: what is said to it, and what they hear of it.

mod counters;
mod down;
mod explain;
mod graceful;
mod groups;
mod order;
mod reflection;
mod rig;

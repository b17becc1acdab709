//! Against the real kernel, each test in a network namespace of its own. They need root.

mod down;
mod follow;
mod install;
mod lab;
mod leave;
mod repair;

//! What must hold of the BGP engine whatever bytes come, and in whichever order things happen.
//!
//! Each target is a function of bytes that panics when something that must hold does not. Whoever
//! has bytes can call it: libFuzzer (`cargo xtask fuzz`, which looks for bytes that reach new code),
//! the tests (the kept corpus, and every input that once found a mistake), a debugger.
//!
//! - [`decoder`]: bytes are messages, or an error with its NOTIFICATION; what is understood, said
//!   again by ourselves, is understood the same.
//! - [`session`]: events of one session in any order; what it says and does follows RFC 4271 §8.
//! - [`decision`]: events of a whole engine in any order; its tables, what its peers have been told
//!   and what the kernel is told are those of a simple model that computes everything anew.
//!
//! And, because here is what it takes, of the speaker's resolver:
//!
//! - [`names`]: bytes are a question, which has an answer of at most so many octets that everybody can read, or
//!   none.

mod decision;
mod decoder;
mod input;
mod names;
mod session;

pub use decision::decision;
pub use decoder::{decoder, stream, update_of};
pub use names::names;
pub use session::session;

/// A function that panics when something does not hold that must.
pub type Target = fn(&[u8]);

/// All targets by name; the names of the folders in `corpus/` and of the programs in
/// `fuzz_targets/`.
pub const TARGETS: [(&str, Target); 4] = [
    ("decoder", decoder),
    ("session", session),
    ("decision", decision),
    ("names", names),
];

//! The BGP engine of one speaker, without I/O.
//!
//! It opens no socket, starts no thread and never asks for the time: whoever runs it (the speaker's
//! daemon, a simulated network of thousands of speakers) reports what happened, with the time, and
//! does what it asks for. [`engine::Engine`] is all that a caller needs; its comment says how it is
//! to be called.
//!
//! # Reading order
//!
//! 1. [`types`] and [`config`]: the words, and what an engine is told to do.
//! 2. [`engine`]: the interface, and each step of a route's way by name.
//! 3. [`session`]: one peer from Idle to Established and back.
//! 4. [`codec`], with [`message`] and [`attributes`]: bytes and what they mean.
//! 5. `rib`: the tables. `rib::adj_in` (an UPDATE becomes candidates), `rib::loc` and
//!    `rib::decision` (the best one is chosen), `rib::adj_out` and `rib::export` (the peers are
//!    told); `policy` is asked on the way in and on the way out.
//! 6. [`query`]: questions and answers, up to the whole story of one prefix.
//!
//! # The way of a route
//!
//! ```text
//! Engine::receive ─► codec ─► session (allowed now?) ─► rib::adj_in (remembered as received,
//! checked, import policy) ─► rib::loc (decided) ─┬─► rib::adj_out (export policy, UPDATEs made once
//!                                                │     for equal peers) ─► Engine::poll_send
//!                                                └─► Engine::poll_fib (the kernel's side)
//! ```
//!
//! Everything behind the decision is pulled: a change is noted once per prefix, and worked out when
//! somebody can take it. So a slow peer or a slow kernel costs bounded memory, and a burst of
//! changes costs one message.
//!
//! # What is supported
//!
//! | RFC | what |
//! |---|---|
//! | 4271 | BGP-4: §4 messages, §5 attributes, §6 errors, §8 every state and event (DelayOpen is not offered), §9 tables and decision |
//! | 4760 | multiprotocol: IPv4 and IPv6 unicast on one session, whatever it runs over |
//! | 6793, 6286 | 4-octet AS numbers; identifiers that are unique within an AS |
//! | 2918, 7313 | route refresh, and its beginning and end |
//! | 8654, 8950 | messages of up to 65,535 octets; IPv4 routes with IPv6 next hops |
//! | 1997, 4360, 8092 | communities: standard, extended, large |
//! | 7606, 9774, 7607 | malformed UPDATEs cost what they must and no more; AS_SET; AS 0 |
//! | 8212 | eBGP is closed until a policy opens it |
//! | 4486, 9003 | why a session ends, in words |
//! | 4456 | all: clients (§6, [`config::PeerConfig::reflector_client`]), clusters of several reflectors (§7), loops (§8), decision (§9), next hop unchanged (§10) |
//! | 5004 | the older external route stays, when asked for |
//! | 4724 | graceful restart: §3 capability, §4.1 restarting speaker (selection deferred), §4.2 helper, §5 a new connection in place of an Established one |
//! | 9494 | long-lived graceful restart: §3 capability and communities, §4.2 timers, also over several restarts, §4.3 and §4.4 the last choice, told only to those that know, §4.6 disguised towards internal peers that do not |
//! | 8538 | graceful restart goes on after a NOTIFICATION, and ends with Hard Reset |
//! | 9687 | a peer that takes nothing from us does not keep its session |

// Tests have to begin their clocks somewhere.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

pub mod attributes;
pub mod codec;
pub mod config;
pub mod engine;
pub mod message;
mod policy;
pub mod prefix_map;
pub mod query;
mod rib;
pub mod session;
pub mod types;

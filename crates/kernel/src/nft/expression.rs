//! What a rule is made of: loads into registers, comparisons, and what is done in the end.

use crate::message::Requests;

use super::{LIST_ELEMENT, find, find_name, find_number, find_value};

/// A place where a rule keeps what it has loaded.
///
/// Sixteen bytes are a whole one; values that are looked up together lie one behind the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register(u32);

impl Register {
    /// The first whole one: `reg 1`.
    pub const FIRST: Register = Register(1);

    /// The place `bytes` (a multiple of four, less than 64) behind the first one.
    pub const fn behind(bytes: u32) -> Register {
        // As the kernel lists them: a number of its own for those that begin a whole one.
        Register(match bytes % 16 {
            0 => 1 + bytes / 16, // NFT_REG_1, …
            _ => 8 + bytes / 4,  // NFT_REG32_00, …
        })
    }
}

/// What [`Expression::Meta`] loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meta {
    /// Name of the interface that it came in by; 16 bytes.
    InputInterface = 6,
    /// Name of the interface that it leaves by; 16 bytes.
    OutputInterface = 7,
    /// `NFPROTO_IPV4` (2) or `NFPROTO_IPV6` (10); one byte.
    Protocol = 15,
    /// `IPPROTO_TCP` (6), …; one byte.
    Layer4 = 16,
    /// Group of the interface that it came in by; 4 bytes in the host's order.
    InputGroup = 21,
}

/// Of which header [`Expression::Payload`] loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// IPv4 or IPv6.
    Network = 1,
    /// TCP, UDP, …
    Transport = 2,
}

/// How [`Expression::Compare`] compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// The rule goes on if it is equal.
    Equal = 0,
    /// The rule goes on if it differs.
    NotEqual = 1,
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// This chain lets it pass.
    Accept,
    /// It is gone.
    Drop,
    /// Back to the chain that jumped here; out of a base chain, by its policy.
    Return,
    /// To another chain, and back.
    Jump(String),
}

/// A step of a rule, in order; one that does not match ends the rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expression {
    /// Loads something about the packet.
    Meta {
        /// What.
        key: Meta,
        /// Where to.
        to: Register,
    },
    /// Loads bytes of the packet.
    Payload {
        /// Of which header.
        header: Header,
        /// From which byte.
        offset: u32,
        /// How many.
        length: u32,
        /// Where to.
        to: Register,
    },
    /// Keeps only the bits of a mask.
    Mask {
        /// Where.
        register: Register,
        /// As many bytes as were loaded.
        mask: Vec<u8>,
    },
    /// Goes on if it compares so.
    Compare {
        /// Where the one side is.
        register: Register,
        /// How.
        how: Comparison,
        /// The other side, in network order.
        value: Vec<u8>,
    },
    /// Goes on if the set has it.
    Lookup {
        /// The set's name.
        set: String,
        /// Where the key is.
        register: Register,
        /// Goes on if the set does *not* have it.
        inverted: bool,
    },
    /// Loads the largest TCP segment that fits the path to the destination and back to the source,
    /// two bytes.
    PathMss {
        /// Where to.
        to: Register,
    },
    /// Loads whether packets to the source would leave by the interface that it came in by, one byte.
    ReversePath {
        /// Where to.
        to: Register,
    },
    /// Turns two bytes from the host's order into the network's.
    ToNetworkOrder {
        /// Where.
        register: Register,
    },
    /// Writes two bytes into the TCP option "maximum segment size", where it is there and greater.
    LowerMss {
        /// Where they are.
        from: Register,
    },
    /// The packet leaves with the address of the interface that it leaves by.
    Masquerade {
        /// With a port at random, rather than its own if that is free.
        fully_random: bool,
    },
    /// Counts packets and bytes.
    Counter,
    /// The rule ends.
    Verdict(Verdict),
    /// It is answered by an ICMP error: administratively prohibited.
    Reject,
    /// Listed, and not known here.
    Other(String),
}

/// `NFT_REG_VERDICT`.
const VERDICT: u32 = 0;
const NF_DROP: i32 = 0;
const NF_ACCEPT: i32 = 1;
const NFT_JUMP: i32 = -3;
const NFT_RETURN: i32 = -5;
/// `NF_NAT_RANGE_PROTO_RANDOM_FULLY`.
const FULLY_RANDOM: u32 = 16;
/// `NFT_RT_TCPMSS`, `NFT_BYTEORDER_HTON`, `NFT_EXTHDR_OP_TCPOPT`, `TCPOPT_MAXSEG`.
const RT_TCPMSS: u32 = 3;
/// `NFT_FIB_RESULT_OIF`; `NFTA_FIB_F_SADDR`, `NFTA_FIB_F_IIF` and `NFTA_FIB_F_PRESENT`.
const FIB_OUT_INTERFACE: u32 = 1;
const FIB_REVERSE_PATH: u32 = 1 | 8 | 32;
const HOST_TO_NETWORK: u32 = 1;
const TCP_OPTION: u32 = 1;
const MAXSEG: u8 = 2;
/// `NFT_REJECT_ICMPX_UNREACH`, `NFT_REJECT_ICMPX_ADMIN_PROHIBITED`.
const ICMPX_UNREACHABLE: u32 = 2;
const ADMIN_PROHIBITED: u8 = 3;

impl Expression {
    fn kind(&self) -> &str {
        match self {
            Expression::Meta { .. } => "meta",
            Expression::Payload { .. } => "payload",
            Expression::Mask { .. } => "bitwise",
            Expression::Compare { .. } => "cmp",
            Expression::Lookup { .. } => "lookup",
            Expression::PathMss { .. } => "rt",
            Expression::ReversePath { .. } => "fib",
            Expression::ToNetworkOrder { .. } => "byteorder",
            Expression::LowerMss { .. } => "exthdr",
            Expression::Masquerade { .. } => "masq",
            Expression::Counter => "counter",
            Expression::Verdict(_) => "immediate",
            Expression::Reject => "reject",
            Expression::Other(kind) => kind,
        }
    }

    /// As an element of a list.
    pub(super) fn encode(&self, requests: &mut Requests) {
        requests.nft_nested(LIST_ELEMENT, |it| {
            it.name(1, self.kind()); // NFTA_EXPR_NAME
            it.nft_nested(2, |it| self.encode_data(it)); // NFTA_EXPR_DATA
        });
    }

    /// The attributes are numbered per kind: `NFTA_META_*`, `NFTA_PAYLOAD_*`, …
    fn encode_data(&self, it: &mut Requests) {
        match self {
            Expression::Meta { key, to } => {
                it.number(1, to.0);
                it.number(2, *key as u32);
            }
            Expression::Payload {
                header,
                offset,
                length,
                to,
            } => {
                it.number(1, to.0);
                it.number(2, *header as u32);
                it.number(3, *offset);
                it.number(4, *length);
            }
            Expression::Mask { register, mask } => {
                it.number(1, register.0);
                it.number(2, register.0);
                it.number(3, mask.len() as u32);
                it.value(4, mask);
                it.value(5, &vec![0; mask.len()]);
            }
            Expression::Compare {
                register,
                how,
                value,
            } => {
                it.number(1, register.0);
                it.number(2, *how as u32);
                it.value(3, value);
            }
            Expression::Lookup {
                set,
                register,
                inverted,
            } => {
                it.name(1, set);
                it.number(2, register.0);
                it.number(5, u32::from(*inverted));
            }
            Expression::PathMss { to } => {
                it.number(1, to.0);
                it.number(2, RT_TCPMSS);
            }
            Expression::ReversePath { to } => {
                it.number(1, to.0);
                it.number(2, FIB_OUT_INTERFACE);
                it.number(3, FIB_REVERSE_PATH);
            }
            Expression::ToNetworkOrder { register } => {
                it.number(1, register.0);
                it.number(2, register.0);
                it.number(3, HOST_TO_NETWORK);
                it.number(4, 2);
                it.number(5, 2);
            }
            Expression::LowerMss { from } => {
                it.number(7, from.0);
                it.attribute(2, &[MAXSEG]);
                it.number(3, 2);
                it.number(4, 2);
                it.number(6, TCP_OPTION);
            }
            Expression::Masquerade { fully_random: true } => it.number(1, FULLY_RANDOM),
            Expression::Masquerade { .. } | Expression::Counter | Expression::Other(_) => {}
            Expression::Verdict(verdict) => {
                it.number(1, VERDICT);
                it.nft_nested(2, |it| it.nft_nested(2, |it| verdict.encode(it)));
            }
            Expression::Reject => {
                it.number(1, ICMPX_UNREACHABLE);
                it.attribute(2, &[ADMIN_PROHIBITED]);
            }
        }
    }

    /// Out of an element of a list.
    pub(super) fn decode(element: &[u8]) -> Expression {
        let kind = find_name(element, 0, 1).unwrap_or_default();
        let data = find(element, 0, 2).unwrap_or(&[]);
        match Expression::decode_data(&kind, data) {
            Some(expression) => expression,
            None => Expression::Other(kind),
        }
    }

    fn decode_data(kind: &str, data: &[u8]) -> Option<Expression> {
        let number = |kind| find_number(data, 0, kind);
        let register = |kind| number(kind).map(Register);
        let is = |kind, value| (number(kind)? == value).then_some(());
        Some(match kind {
            "meta" => Expression::Meta {
                key: Meta::of(number(2)?)?,
                to: register(1)?,
            },
            "payload" => Expression::Payload {
                header: match number(2)? {
                    1 => Header::Network,
                    2 => Header::Transport,
                    _ => return None,
                },
                offset: number(3)?,
                length: number(4)?,
                to: register(1)?,
            },
            "bitwise" => {
                is(2, number(1)?)?;
                let without_xor = find_value(data, 0, 5)?.iter().all(|byte| *byte == 0);
                // NFTA_BITWISE_OP; 0 is mask and xor
                (number(6).unwrap_or(0) == 0 && without_xor).then_some(())?;
                Expression::Mask {
                    register: register(1)?,
                    mask: find_value(data, 0, 4)?.to_vec(),
                }
            }
            "cmp" => Expression::Compare {
                register: register(1)?,
                how: match number(2)? {
                    0 => Comparison::Equal,
                    1 => Comparison::NotEqual,
                    _ => return None,
                },
                value: find_value(data, 0, 3)?.to_vec(),
            },
            "lookup" if number(3).is_none() => Expression::Lookup {
                set: find_name(data, 0, 1)?,
                register: register(2)?,
                inverted: number(5).unwrap_or(0) & 1 != 0,
            },
            "rt" => {
                is(2, RT_TCPMSS)?;
                Expression::PathMss { to: register(1)? }
            }
            "fib" => {
                is(2, FIB_OUT_INTERFACE)?;
                is(3, FIB_REVERSE_PATH)?;
                Expression::ReversePath { to: register(1)? }
            }
            "byteorder" => {
                is(2, number(1)?)?;
                is(3, HOST_TO_NETWORK)?;
                is(4, 2)?;
                is(5, 2)?;
                Expression::ToNetworkOrder {
                    register: register(1)?,
                }
            }
            "exthdr" => {
                (find(data, 0, 2)? == [MAXSEG]).then_some(())?;
                is(3, 2)?;
                is(4, 2)?;
                is(6, TCP_OPTION)?;
                Expression::LowerMss { from: register(7)? }
            }
            "masq" => {
                let flags = number(1).unwrap_or(0);
                (flags & !FULLY_RANDOM == 0 && number(2).is_none()).then_some(())?;
                Expression::Masquerade {
                    fully_random: flags != 0,
                }
            }
            "counter" => Expression::Counter,
            "immediate" => {
                is(1, VERDICT)?;
                Expression::Verdict(Verdict::decode(find(find(data, 0, 2)?, 0, 2)?)?)
            }
            "reject" => {
                is(1, ICMPX_UNREACHABLE)?;
                (find(data, 0, 2)? == [ADMIN_PROHIBITED]).then_some(())?;
                Expression::Reject
            }
            _ => return None,
        })
    }
}

impl Meta {
    fn of(number: u32) -> Option<Meta> {
        let all = [
            Meta::InputInterface,
            Meta::OutputInterface,
            Meta::Protocol,
            Meta::Layer4,
            Meta::InputGroup,
        ];
        all.into_iter().find(|meta| *meta as u32 == number)
    }
}

impl Verdict {
    fn encode(&self, it: &mut Requests) {
        let code = match self {
            Verdict::Accept => NF_ACCEPT,
            Verdict::Drop => NF_DROP,
            Verdict::Return => NFT_RETURN,
            Verdict::Jump(_) => NFT_JUMP,
        };
        it.number(1, code as u32);
        if let Verdict::Jump(chain) = self {
            it.name(2, chain);
        }
    }

    fn decode(data: &[u8]) -> Option<Verdict> {
        Some(match find_number(data, 0, 1)? as i32 {
            NF_ACCEPT => Verdict::Accept,
            NF_DROP => Verdict::Drop,
            NFT_RETURN => Verdict::Return,
            NFT_JUMP => Verdict::Jump(find_name(data, 0, 2)?),
            _ => return None,
        })
    }
}

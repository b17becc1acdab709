//! DNS messages: questions taken apart, answers put together. Pure; RFC 1035, RFC 6891.
//!
//! The codec is the crate `domain`; its types stay in here.

use std::net::IpAddr;

use domain::base::iana::{Class, Opcode, Rcode, Rtype};
use domain::base::message_builder::{AdditionalBuilder, AnswerBuilder, PushError};
use domain::base::{Message, MessageBuilder, Name, Serial, StaticCompressor, Ttl};
use domain::rdata::{A, Aaaa, Ptr, Soa};

use super::zone::{Found, Kind};

/// How long an answer is good: a container that is started again has another address.
const TTL: Ttl = Ttl::from_secs(5);
/// What fits into a datagram where nobody says that more does. RFC 1035 §4.2.1.
const SMALLEST: usize = 512;
/// What we send in one datagram at most, so that it is not cut into fragments.
pub(crate) const LARGEST_DATAGRAM: usize = 1232;
/// What a message over TCP can have.
pub(crate) const LARGEST: usize = 65_535;
const HEADER: usize = 12;

/// A question that can be answered.
#[derive(Debug)]
pub(crate) struct Query<'a> {
    message: &'a Message<[u8]>,
    /// In lower case, without a dot at its end. Bytes that are in no host name are written with a
    /// backslash, and so in no name of ours.
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// What we put into one datagram for the other side.
    pub(crate) datagram: usize,
    /// What the other side says that it takes in one.
    pub(crate) datagram_asked: usize,
    /// EDNS, and its bit DO: is there, and what it says.
    edns: Option<bool>,
}

/// What is no question.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoQuery {
    /// An answer, or nothing at all: nobody waits for one.
    Silence,
    /// What the other side is told.
    Reply(Vec<u8>),
}

/// What is said beside the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Refused,
    ServerFailure,
}

/// Takes a message apart.
pub(crate) fn read(bytes: &[u8]) -> Result<Query<'_>, NoQuery> {
    let message = Message::from_slice(bytes).map_err(|_| NoQuery::Silence)?;
    let header = message.header();
    if header.qr() {
        return Err(NoQuery::Silence);
    }
    let reply = |code| NoQuery::Reply(header_only(message, code));
    if header.opcode() != Opcode::QUERY {
        return Err(reply(Rcode::NOTIMP));
    }
    let question = message.sole_question().map_err(|_| reply(Rcode::FORMERR))?;
    // A record that cannot be skipped makes the rest unreadable; whom it is forwarded to need not see it.
    let mut records = message.answer().map_err(|_| reply(Rcode::FORMERR))?;
    let mut opts = 0;
    loop {
        for record in records.by_ref() {
            let record = record.map_err(|_| reply(Rcode::FORMERR))?;
            opts += usize::from(record.rtype() == Rtype::OPT);
        }
        match records.next_section().map_err(|_| reply(Rcode::FORMERR))? {
            Some(next) => records = next,
            None => break,
        }
    }
    // RFC 6891 §6.1.1.
    if opts > 1 {
        return Err(reply(Rcode::FORMERR));
    }
    let opt = message.opt();
    if opt.as_ref().is_some_and(|opt| opt.version() != 0) {
        return Err(NoQuery::Reply(bad_version(message)));
    }
    let kind = match question.qtype() {
        Rtype::A => Kind::Ipv4,
        Rtype::AAAA => Kind::Ipv6,
        Rtype::PTR => Kind::Pointer,
        Rtype::SOA => Kind::Authority,
        // A transfer is not a question about a name.
        Rtype::AXFR | Rtype::IXFR => return Err(reply(Rcode::REFUSED)),
        _ => Kind::Other,
    };
    if question.qclass() != Class::IN {
        return Err(reply(Rcode::REFUSED));
    }
    let name = question.qname().to_string().to_ascii_lowercase();
    let datagram_asked = opt.as_ref().map_or(SMALLEST, |opt| {
        usize::from(opt.udp_payload_size()).max(SMALLEST)
    });
    Ok(Query {
        message,
        name: name.trim_end_matches('.').to_owned(),
        kind,
        datagram: datagram_asked.min(LARGEST_DATAGRAM),
        datagram_asked,
        edns: opt.as_ref().map(|opt| opt.dnssec_ok()),
    })
}

impl Query<'_> {
    /// The answer, of `limit` bytes at most. What does not fit is left out and said to be (TC).
    ///
    /// `domain` is where our names are; `found` is not [`Found::Elsewhere`].
    pub(crate) fn answer(&self, found: &Found, domain: &str, limit: usize) -> Vec<u8> {
        let code = match found {
            Found::NoName => Rcode::NXDOMAIN,
            _ => Rcode::NOERROR,
        };
        let mut answer = self.start(code, limit);
        answer.header_mut().set_aa(true);
        let Ok(question) = self.message.sole_question() else {
            return header_only(self.message, Rcode::FORMERR);
        };
        let name = question.qname();
        let pushed = match found {
            Found::Addresses(addresses) => addresses.iter().try_for_each(|address| match address {
                IpAddr::V4(it) => answer.push((name, TTL, A::new(*it))),
                IpAddr::V6(it) => answer.push((name, TTL, Aaaa::new(*it))),
            }),
            Found::Names(names) => names.iter().try_for_each(|pointer| {
                let Ok(pointer) = Name::vec_from_str(pointer) else {
                    return Ok(());
                };
                answer.push((name, TTL, Ptr::new(pointer)))
            }),
            Found::Authority => {
                authority(domain).map_or(Ok(()), |(owner, soa)| answer.push((owner, TTL, soa)))
            }
            Found::NoData | Found::NoName | Found::Elsewhere => Ok(()),
        };
        if pushed.is_err() {
            answer.header_mut().set_tc(true);
        }
        let mut rest = answer.authority();
        if matches!(found, Found::NoData | Found::NoName)
            && let Some((owner, soa)) = authority(domain)
        {
            // Says for how long there is nothing (RFC 2308); without it the answer is still one.
            let _ = rest.push((owner, TTL, soa));
        }
        self.finish(rest.additional())
    }

    /// An answer without records.
    pub(crate) fn fail(&self, outcome: Outcome) -> Vec<u8> {
        let code = match outcome {
            Outcome::Refused => Rcode::REFUSED,
            Outcome::ServerFailure => Rcode::SERVFAIL,
        };
        self.finish(self.start(code, SMALLEST).additional())
    }

    /// With the record of EDNS where who asks has sent one: who gets none takes us for too old for it.
    fn finish(&self, mut rest: AdditionalBuilder<StaticCompressor<Vec<u8>>>) -> Vec<u8> {
        if let Some(dnssec_ok) = self.edns {
            rest.clear_push_limit();
            // A vector takes it.
            let _ = rest.opt(|opt| {
                opt.set_udp_payload_size(LARGEST_DATAGRAM as u16);
                opt.set_dnssec_ok(dnssec_ok); // RFC 3225 §3
                Ok(())
            });
        }
        rest.finish().into_target()
    }

    fn start(&self, code: Rcode, limit: usize) -> AnswerBuilder<StaticCompressor<Vec<u8>>> {
        let mut builder = MessageBuilder::from_target(StaticCompressor::new(Vec::new()))
            .unwrap_or_else(|_| unreachable!("a vector takes a header"));
        // The record of EDNS has 11 bytes, and its place is kept.
        builder.set_push_limit(limit - 11);
        let mut answer = builder
            .start_answer(self.message, code)
            .unwrap_or_else(|_: PushError| unreachable!("a question of at most 259 bytes fits"));
        answer.header_mut().set_ra(true);
        answer
    }

    /// Whether `reply` answers this question, as it was sent with `id`.
    pub(crate) fn is_answered_by(&self, reply: &[u8], id: u16) -> bool {
        let Ok(reply) = Message::from_slice(reply) else {
            return false;
        };
        let header = reply.header();
        // Servers that cannot read a question need not repeat it.
        let same = match reply.header_counts().qdcount() {
            0 => header.rcode() != Rcode::NOERROR,
            _ => match (reply.sole_question(), self.message.sole_question()) {
                (Ok(reply), Ok(ours)) => reply == ours,
                _ => false,
            },
        };
        header.qr() && header.id() == id && same
    }
}

/// Puts another ID into a message.
pub(crate) fn set_id(message: &mut [u8], id: u16) {
    message[..2].copy_from_slice(&id.to_be_bytes());
}

/// The ID of a message of at least two bytes.
pub(crate) fn id(message: &[u8]) -> u16 {
    u16::from_be_bytes([message[0], message[1]])
}

/// A reply that is too large for a datagram, without its records and marked so (TC).
pub(crate) fn cut(query: &Query<'_>, reply: &[u8]) -> Vec<u8> {
    let code = Message::from_slice(reply).map_or(Rcode::SERVFAIL, |reply| reply.header().rcode());
    let mut cut = query.start(code, SMALLEST);
    cut.header_mut().set_tc(true);
    query.finish(cut.additional())
}

/// Whether a reply says only that its sender could not, or would not, answer: another one may.
pub(crate) fn is_failure(reply: &[u8]) -> bool {
    let code = Message::from_slice(reply).map(|reply| reply.header().rcode());
    let failures = [Rcode::SERVFAIL, Rcode::REFUSED, Rcode::NOTIMP];
    code.is_ok_and(|code| failures.contains(&code))
}

type OwnName = Name<Vec<u8>>;

/// The domain's start of authority. RFC 1035 §3.3.13.
fn authority(domain: &str) -> Option<(OwnName, Soa<OwnName>)> {
    let owner = Name::vec_from_str(domain).ok()?;
    let mailbox = Name::vec_from_str(&format!("hostmaster.{domain}")).ok()?;
    let long = Ttl::from_secs(3600);
    let soa = Soa::new(owner.clone(), mailbox, Serial(1), long, long, long, TTL);
    Some((owner, soa))
}

fn header_only(message: &Message<[u8]>, code: Rcode) -> Vec<u8> {
    let mut reply = message.as_slice()[..HEADER].to_vec();
    reply[4..].fill(0);
    let header = domain::base::Header::for_message_slice_mut(&mut reply);
    let mut new = domain::base::Header::new();
    new.set_id(header.id());
    new.set_opcode(header.opcode());
    new.set_rd(header.rd());
    new.set_qr(true);
    new.set_ra(true);
    new.set_rcode(code);
    *header = new;
    reply
}

/// RFC 6891 §6.1.3.
fn bad_version(message: &Message<[u8]>) -> Vec<u8> {
    let builder = MessageBuilder::new_vec();
    let Ok(answer) = builder.start_answer(message, Rcode::NOERROR) else {
        return header_only(message, Rcode::FORMERR);
    };
    let mut rest = answer.additional();
    // A vector takes it.
    let _ = rest.opt(|opt| {
        opt.set_rcode(domain::base::iana::OptRcode::BADVERS);
        opt.set_udp_payload_size(LARGEST_DATAGRAM as u16);
        Ok(())
    });
    rest.finish()
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;

use domain::base::iana::OptRcode;
use domain::rdata::AllRecordData;
use proptest::prelude::*;

use super::*;

fn query(name: &str, rtype: Rtype, edns: Option<u16>) -> Vec<u8> {
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(0x1234);
    builder.header_mut().set_rd(true);
    let mut builder = builder.question();
    let name = Name::vec_from_str(name).unwrap();
    builder.push((name, rtype)).unwrap();
    let mut rest = builder.additional();
    if let Some(size) = edns {
        rest.opt(|opt| {
            opt.set_udp_payload_size(size);
            Ok(())
        })
        .unwrap();
    }
    rest.finish()
}

fn addresses(count: u8) -> Found {
    Found::Addresses((0..count).map(|it| IpAddr::from([10, 0, 0, it])).collect())
}

/// Whether a message says that it is not whole.
fn is_cut(message: &[u8]) -> bool {
    Message::from_slice(message).unwrap().header().tc()
}

fn code(message: &[u8]) -> Rcode {
    Message::from_slice(message).unwrap().header().rcode()
}

#[test]
fn a_question_is_read_in_lower_case() {
    let bytes = query("Web.Front.Pods.Internal", Rtype::AAAA, Some(4096));
    let query = read(&bytes).unwrap();
    assert_eq!(query.name, "web.front.pods.internal");
    assert_eq!(query.kind, Kind::Ipv6);
    assert_eq!(query.datagram, LARGEST_DATAGRAM);
    let bytes = self::query("web", Rtype::A, None);
    assert_eq!(read(&bytes).unwrap().datagram, SMALLEST);
    let bytes = self::query(".", Rtype::NS, None);
    assert_eq!(read(&bytes).unwrap().name, "");
}

#[test]
fn an_answer_has_the_addresses_and_the_question() {
    let bytes = query("Web", Rtype::A, Some(1232));
    let query = read(&bytes).unwrap();
    let answer = query.answer(&addresses(2), "pods.internal", query.datagram);
    assert!(query.is_answered_by(&answer, 0x1234));
    assert!(!query.is_answered_by(&answer, 0x1235));
    let message = Message::from_slice(&answer).unwrap();
    let header = message.header();
    assert!(header.qr() && header.aa() && header.ra() && header.rd() && !header.tc());
    let question = message.sole_question().unwrap();
    assert_eq!(question.qname().to_string(), "Web");
    let records = message.answer().unwrap().limit_to::<A>();
    let found: Vec<String> = records.map(|it| it.unwrap().data().to_string()).collect();
    assert_eq!(found, ["10.0.0.0", "10.0.0.1"]);
    assert!(message.opt().is_some());
}

#[test]
fn what_does_not_fit_is_cut_and_said_to_be() {
    let bytes = query("web", Rtype::A, None);
    let query = read(&bytes).unwrap();
    let answer = query.answer(&addresses(64), "pods.internal", query.datagram);
    assert!(answer.len() <= SMALLEST, "{}", answer.len());
    assert!(is_cut(&answer));
    let whole = query.answer(&addresses(64), "pods.internal", LARGEST);
    assert!(!is_cut(&whole));
    let message = Message::from_slice(&whole).unwrap();
    assert_eq!(message.header_counts().ancount(), 64);
}

#[test]
fn nothing_is_said_with_the_start_of_authority() {
    for (found, expected) in [
        (Found::NoName, Rcode::NXDOMAIN),
        (Found::NoData, Rcode::NOERROR),
    ] {
        let bytes = query("x.front.pods.internal", Rtype::A, None);
        let query = read(&bytes).unwrap();
        let answer = query.answer(&found, "pods.internal", query.datagram);
        assert_eq!(code(&answer), expected);
        let message = Message::from_slice(&answer).unwrap();
        assert_eq!(message.header_counts().ancount(), 0);
        let mut authority = message.authority().unwrap().limit_to::<Soa<_>>();
        let soa = authority.next().unwrap().unwrap();
        assert_eq!(soa.owner().to_string(), "pods.internal");
        assert_eq!(soa.data().minimum(), TTL);
    }
}

#[test]
fn what_is_no_question_is_refused_or_dropped() {
    let good = query("web", Rtype::A, None);
    assert_eq!(read(&good[..11]).unwrap_err(), NoQuery::Silence);
    let mut answer = good.clone();
    answer[2] |= 0x80;
    assert_eq!(read(&answer).unwrap_err(), NoQuery::Silence);
    let refused = |bytes: &[u8]| match read(bytes).unwrap_err() {
        NoQuery::Reply(reply) => {
            assert_eq!(id(&reply), 0x1234);
            assert!(reply.len() <= bytes.len());
            code(&reply)
        }
        NoQuery::Silence => panic!("silence"),
    };
    assert_eq!(refused(&good[..good.len() - 3]), Rcode::FORMERR);
    let mut two = good.clone();
    two[5] = 2;
    assert_eq!(refused(&two), Rcode::FORMERR);
    let mut update = good.clone();
    update[2] |= 5 << 3;
    assert_eq!(refused(&update), Rcode::NOTIMP);
    let mut chaos = good.clone();
    *chaos.last_mut().unwrap() = 3;
    assert_eq!(refused(&chaos), Rcode::REFUSED);
    assert_eq!(
        refused(&query("internal", Rtype::AXFR, None)),
        Rcode::REFUSED
    );
}

#[test]
fn an_unknown_version_of_edns_is_said_to_be() {
    let mut bytes = query("web", Rtype::A, Some(1232));
    let version = bytes.len() - 5; // extended code, version, flags, length
    bytes[version] = 1;
    let Err(NoQuery::Reply(reply)) = read(&bytes) else {
        panic!("understood");
    };
    let message = Message::from_slice(&reply).unwrap();
    let opt = message.opt().unwrap();
    assert_eq!(opt.rcode(message.header()), OptRcode::BADVERS);
}

/// What is refused or has failed, too: without it, resolvers take us for a server that knows no EDNS.
#[test]
fn every_answer_to_edns_has_its_record() {
    let bytes = query("web", Rtype::A, Some(4096));
    let mut with_do = bytes.clone();
    let flags = with_do.len() - 4;
    with_do[flags] |= 0x80;
    for (bytes, dnssec_ok) in [(bytes, false), (with_do, true)] {
        let query = read(&bytes).unwrap();
        let reply = query.fail(Outcome::ServerFailure);
        for answer in [
            query.answer(&addresses(64), "pods.internal", SMALLEST),
            query.fail(Outcome::Refused),
            cut(&query, &reply),
            reply,
        ] {
            assert!(answer.len() <= SMALLEST);
            let message = Message::from_slice(&answer).unwrap();
            let opt = message.opt().expect("the record of EDNS");
            assert_eq!(opt.dnssec_ok(), dnssec_ok);
        }
    }
    let plain = query("web", Rtype::A, None);
    let failed = read(&plain).unwrap().fail(Outcome::Refused);
    assert!(Message::from_slice(&failed).unwrap().opt().is_none());
}

/// RFC 6891 §6.1.1.
#[test]
fn two_records_of_edns_are_malformed() {
    let mut bytes = query("web", Rtype::A, Some(1232));
    let opt = bytes[bytes.len() - 11..].to_vec();
    bytes.extend(opt);
    bytes[11] = 2;
    let Err(NoQuery::Reply(reply)) = read(&bytes) else {
        panic!("understood");
    };
    assert_eq!(code(&reply), Rcode::FORMERR);
}

#[test]
fn another_answer_is_not_taken_for_ours() {
    let bytes = query("web.example.com", Rtype::A, None);
    let ours = read(&bytes).unwrap();
    let other_bytes = query("bank.example.com", Rtype::A, None);
    let other = read(&other_bytes).unwrap();
    let reply = other.answer(&addresses(1), "pods.internal", SMALLEST);
    assert!(!ours.is_answered_by(&reply, 0x1234));
    assert!(!ours.is_answered_by(&bytes, 0x1234)); // the question itself
    assert!(!ours.is_answered_by(&[0x12, 0x34], 0x1234));
    assert!(ours.is_answered_by(&ours.fail(Outcome::ServerFailure), 0x1234));
}

fn everything_can_be_read(message: &[u8]) -> bool {
    let Ok(message) = Message::from_slice(message) else {
        return false;
    };
    let sections = message.iter();
    let mut records = sections.map(|record| {
        let (record, _) = record.ok()?;
        record.to_any_record::<AllRecordData<_, _>>().ok().map(drop)
    });
    records.all(|record| record.is_some())
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), tcp in any::<bool>()) {
        take(&bytes, tcp)?;
    }

    /// Bytes that are nearly a question get further than those of chance.
    #[test]
    fn no_damage_panics(
        name in "[a-z0-9_-]{1,63}(\\.[a-z0-9_-]{1,63}){0,2}",
        edns in proptest::option::of(any::<u16>()),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in proptest::option::of(any::<prop::sample::Index>()),
        tcp in any::<bool>(),
    ) {
        let mut bytes = query(&name, Rtype::A, edns);
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        take(&bytes, tcp)?;
    }
}

/// Reads, and gives every kind of answer.
fn take(bytes: &[u8], tcp: bool) -> Result<(), TestCaseError> {
    let query = match read(bytes) {
        Ok(query) => query,
        Err(NoQuery::Silence) => return Ok(()),
        Err(NoQuery::Reply(reply)) => {
            prop_assert!(everything_can_be_read(&reply));
            return Ok(());
        }
    };
    let limit = if tcp { LARGEST } else { query.datagram };
    let names = vec!["web.front.pods.internal".to_owned(); 64];
    let found = [
        addresses(64),
        Found::Names(names),
        Found::Authority,
        Found::NoData,
        Found::NoName,
    ];
    for found in found {
        let answer = query.answer(&found, "pods.internal", limit);
        prop_assert!(answer.len() <= limit);
        prop_assert!(everything_can_be_read(&answer));
        prop_assert!(query.is_answered_by(&answer, id(bytes)));
    }
    prop_assert!(everything_can_be_read(&query.fail(Outcome::Refused)));
    prop_assert!(everything_can_be_read(&cut(&query, bytes)));
    Ok(())
}

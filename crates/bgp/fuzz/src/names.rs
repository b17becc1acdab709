//! Questions about names of containers, and what other resolvers reply: RFC 1035, RFC 6891.
//!
//! The resolver is a part of the speaker, which is a program; its pure files are built into this crate.

#[allow(dead_code, reason = "not all of the resolver is here")]
#[path = "../../../../speaker/src/names/message.rs"]
mod message;
#[allow(dead_code, reason = "not all of the resolver is here")]
#[path = "../../../../speaker/src/names/zone.rs"]
mod zone;

use std::net::IpAddr;
use std::sync::LazyLock;

use domain::base::Message;
use domain::rdata::AllRecordData;

use message::{LARGEST, NoQuery, Outcome, Query};
use zone::{Attachment, Found, Zone};

const DOMAIN: &str = "pods.internal";
/// What a datagram has room for where nobody says that there is more. RFC 1035 §4.2.1.
const SMALLEST: usize = 512;

/// Two networks: one with a name of more containers than fit into a datagram, another with names that have dots.
static ZONE: LazyLock<Zone> = LazyLock::new(|| {
    let of =
        |network: &str, container: String, addresses: Vec<IpAddr>, names: &[&str]| Attachment {
            network: network.into(),
            container,
            of_node: true,
            addresses,
            names: names.iter().map(|it| (*it).to_owned()).collect(),
        };
    let mut here: Vec<Attachment> = (0..100_u8)
        .map(|number| {
            let six = [0xFD00, 0, 0, 0, 0, 0, 0, number.into()];
            let addresses = vec![[10, 0, 0, number].into(), six.into()];
            of("front", format!("c{number}"), addresses, &["web"])
        })
        .collect();
    let beside = vec![[10, 1, 0, 1].into()];
    here.push(of(
        "back.end",
        "c1".into(),
        beside,
        &["db", "Store.example"],
    ));
    Zone::new(DOMAIN, &here, &[], 0)
});

/// The first octet chooses who asks and how; the rest is the question, and then a reply to a question of ours.
pub fn names(data: &[u8]) {
    let Some((choice, bytes)) = data.split_first() else {
        return;
    };
    reply(bytes);
    let query = match message::read(bytes) {
        Ok(query) => query,
        Err(NoQuery::Silence) => return,
        Err(NoQuery::Reply(reply)) => {
            assert!(reply.len() <= bytes.len().max(SMALLEST), "it is amplified");
            return can_be_read(&reply);
        }
    };
    let limit = match choice & 1 {
        0 => query.datagram,
        _ => LARGEST,
    };
    let asker = match choice & 2 {
        0 => ZONE.host(),
        _ => {
            let asker = ZONE.asker([10, 0, 0, 1].into());
            asker.flatten().expect("it is in the zone").clone()
        }
    };
    let found = ZONE.find(&asker, &query.name, query.kind);
    if found != Found::Elsewhere {
        answered(&query, bytes, &query.answer(&found, DOMAIN, limit), limit);
    }
    // Whatever it asks for, any of these may have to be said.
    let all = (0..64_u8).map(|it| [10, 0, 0, it].into()).collect();
    let names = vec!["web.front.pods.internal".to_owned(); 64];
    for found in [
        Found::Addresses(all),
        Found::Names(names),
        Found::Authority,
        Found::NoData,
        Found::NoName,
    ] {
        answered(&query, bytes, &query.answer(&found, DOMAIN, limit), limit);
    }
    for outcome in [Outcome::Refused, Outcome::ServerFailure] {
        answered(&query, bytes, &query.fail(outcome), SMALLEST);
    }
    answered(&query, bytes, &message::cut(&query, bytes), SMALLEST);
}

/// An answer that whoever asked takes for one.
fn answered(query: &Query<'_>, bytes: &[u8], answer: &[u8], limit: usize) {
    assert!(answer.len() <= limit, "{} octets of {limit}", answer.len());
    can_be_read(answer);
    assert!(query.is_answered_by(answer, message::id(bytes)));
    assert!(!query.is_answered_by(answer, message::id(bytes) ^ 1));
    assert!(
        !query.is_answered_by(bytes, message::id(bytes)),
        "the question itself"
    );
}

fn can_be_read(message: &[u8]) {
    let message = Message::from_slice(message).expect("it has a header");
    for record in message.iter() {
        let (record, _) = record.expect("a record of ours can be read");
        let data = record.to_any_record::<AllRecordData<_, _>>();
        data.expect("so can its data");
    }
}

/// What comes from a resolver that we asked.
fn reply(bytes: &[u8]) {
    let mut ours = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 3];
    ours.extend(b"web\0\0\x01\0\x01");
    let query = message::read(&ours).expect("it is a question");
    if query.is_answered_by(bytes, 0x1234) {
        assert!(bytes.len() >= 12, "an answer has a header");
        message::is_failure(bytes);
        let mut bytes = bytes.to_vec();
        message::set_id(&mut bytes, 0x4321);
        assert_eq!(message::id(&bytes), 0x4321);
    }
}

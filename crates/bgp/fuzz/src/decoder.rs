//! Bytes from the wire: RFC 4271 §4 and §6, RFC 7606.

use bgp::attributes::Attributes;
use bgp::codec::{
    self, Announced, Context, EXTENDED_MESSAGE, MOST_FAULTS, Nlri, STANDARD_MESSAGE, Update,
    UpdateBuilder, WireError,
};
use bgp::message::{Message, Notification, Open, code};
use bgp::types::{Family, Prefix};
use bytes::BytesMut;

/// The first octet chooses what was agreed in the OPENs and whether the rest is a stream of messages
/// or the body of one UPDATE; the second in which pieces the stream comes.
pub fn decoder(data: &[u8]) {
    let Some((&[choice, pieces], rest)) = data.split_first_chunk::<2>() else {
        return;
    };
    let context = context(choice);
    if choice & 0x80 != 0 {
        return update(rest, &context);
    }
    let whole = stream(rest, &context);
    let mut buf = BytesMut::new();
    let mut cut = Vec::new();
    for piece in rest.chunks(usize::from(pieces).max(1)) {
        buf.extend_from_slice(piece);
        if !take_all(&mut buf, context.max_message, &mut cut) {
            break;
        }
    }
    assert_eq!(whole, cut, "where the stream is cut makes a difference");
}

/// What was agreed and the body of an UPDATE, where that is what an input has.
pub fn update_of(data: &[u8]) -> Option<(Context, &[u8])> {
    let (&[choice, _], body) = data.split_first_chunk::<2>()?;
    (choice & 0x80 != 0).then(|| (context(choice), body))
}

fn context(choice: u8) -> Context {
    let families = match choice >> 1 & 3 {
        0 => vec![Family::Ipv4],
        1 => vec![Family::Ipv6],
        _ => Family::ALL.to_vec(),
    };
    let extended = (choice & 8 != 0).then_some(Family::Ipv4);
    Context {
        ebgp: choice & 1 != 0,
        four_octet_as: choice & 0x10 == 0,
        families: families.into_iter().collect(),
        extended_next_hop: extended.into_iter().collect(),
        max_message: match choice & 0x20 != 0 {
            true => EXTENDED_MESSAGE,
            false => STANDARD_MESSAGE,
        },
    }
}

/// Messages until one is refused or there are no more; each is looked at. What was taken.
pub fn stream(bytes: &[u8], context: &Context) -> Vec<Result<Message, WireError>> {
    let mut messages = Vec::new();
    take_all(
        &mut BytesMut::from(bytes),
        context.max_message,
        &mut messages,
    );
    for message in messages.iter().flatten() {
        look_at(message, context);
    }
    messages
}

/// False: the stream is of no use any more.
fn take_all(
    buf: &mut BytesMut,
    max_message: u16,
    out: &mut Vec<Result<Message, WireError>>,
) -> bool {
    loop {
        let before = buf.len();
        let length = buf.get(16..18).map(|l| u16::from_be_bytes([l[0], l[1]]));
        match codec::next_message(buf, max_message) {
            Ok(None) => {
                assert_eq!(before, buf.len(), "half a message was touched");
                assert!(buf.len() < usize::from(max_message), "a message is held up");
                return true;
            }
            Ok(Some(message)) => {
                assert!(length.is_some_and(|length| length <= max_message));
                assert_eq!(Some(before - buf.len()), length.map(usize::from));
                out.push(Ok(message));
            }
            Err(error) => {
                is_refusal(&error, &[code::HEADER, code::OPEN, code::ROUTE_REFRESH]);
                out.push(Err(error));
                return false;
            }
        }
    }
}

/// An error says with which NOTIFICATION and why, and both can be sent and shown.
fn is_refusal(error: &WireError, codes: &[u8]) {
    let notification = &error.notification;
    assert!(codes.contains(&notification.code), "{error}");
    assert!(!error.reason.is_empty());
    says_the_same(notification);
    let data = &notification.data;
    let expected = match (notification.code, notification.subcode) {
        (code::HEADER, 1) => data.is_empty(),
        (code::HEADER, 2) => data.len() == 2,
        (code::HEADER, 3) => data.len() == 1,
        (code::OPEN, 1) => data[..] == [0, 4],
        (code::UPDATE, 1 | 3 | 10 | 11) => true,
        // The attribute that is to blame, whole.
        (code::UPDATE, _) => data.len() >= 2,
        _ => true,
    };
    assert!(expected, "{notification:?}");
}

fn says_the_same(notification: &Notification) {
    let mut bytes = BytesMut::new();
    codec::encode_notification(notification, &mut bytes);
    assert!(bytes.len() <= usize::from(STANDARD_MESSAGE));
    let Ok(Some(Message::Notification(again))) = codec::next_message(&mut bytes, STANDARD_MESSAGE)
    else {
        panic!("{notification:?} cannot be sent");
    };
    assert_eq!(
        (again.code, again.subcode),
        (notification.code, notification.subcode)
    );
    assert!(notification.data.starts_with(&again.data));
    let shown = notification.to_string();
    assert!(!shown.chars().any(char::is_control), "{shown:?}");
}

fn look_at(message: &Message, context: &Context) {
    match message {
        Message::Open(open) => open_says_the_same(open),
        Message::Update(body) => update(body, context),
        Message::Notification(notification) => says_the_same(notification),
        Message::RouteRefresh {
            family: Some(family),
            kind,
        } => {
            let mut bytes = BytesMut::new();
            codec::encode_route_refresh(*family, *kind, &mut bytes);
            let again = codec::next_message(&mut bytes, STANDARD_MESSAGE);
            assert_eq!(again, Ok(Some(message.clone())));
        }
        Message::RouteRefresh { family: None, .. } | Message::Keepalive => {}
    }
}

fn open_says_the_same(open: &Open) {
    assert_ne!(open.asn.0, 0);
    assert!(!open.router_id.0.is_unspecified());
    assert!(!matches!(open.hold_time, 1 | 2));
    let mut bytes = BytesMut::new();
    codec::encode_open(open, &mut bytes);
    let Ok(Some(Message::Open(again))) = codec::next_message(&mut bytes, STANDARD_MESSAGE) else {
        panic!("{open:?} cannot be sent");
    };
    let mut said = open.clone();
    // Capabilities are sent in an order of ours, and those that we do not know are not sent.
    said.capabilities.families.sort_unstable();
    said.capabilities.extended_next_hop.sort_unstable();
    said.capabilities.unknown.clear();
    assert_eq!(again, said);
    assert!(
        open.capabilities
            .names()
            .iter()
            .all(|name| !name.is_empty())
    );
}

/// The body of one UPDATE.
fn update(body: &[u8], context: &Context) {
    let once = Update::decode(body, context);
    let twice = Update::decode(body, context);
    let update = match (once, twice) {
        (Ok(update), Ok(_)) => update,
        (Err(error), Err(again)) => {
            assert_eq!(error, again);
            return is_refusal(&error, &[code::UPDATE]);
        }
        (once, twice) => panic!("{once:?}, and then {twice:?}"),
    };
    if update.end_of_rib.is_some() {
        assert!(update.announced.is_empty() && update.withdrawn.is_empty());
    }
    let lists = update.withdrawn.iter();
    let lists = lists.chain(update.announced.iter().map(|announced| &announced.nlri));
    let mut octets = 0;
    for nlri in lists {
        assert!(!nlri.is_empty());
        assert!(context.families.contains(nlri.family()));
        for prefix in nlri.iter() {
            assert_eq!(prefix.family(), nlri.family());
            assert_eq!(Prefix::new(prefix.address(), prefix.length()), prefix);
            octets += 1 + usize::from(prefix.length().div_ceil(8));
        }
    }
    assert!(octets <= body.len(), "more prefixes than there are octets");
    for nlri in &update.withdrawn {
        withdrawn_again(nlri, context);
    }
    for announced in &update.announced {
        assert!(announced.attributes.len() <= body.len());
        announced_again(announced, context);
    }
}

fn withdrawn_again(nlri: &Nlri<'_>, context: &Context) {
    let mut out = BytesMut::new();
    let mut builder = UpdateBuilder::withdraw(nlri.family(), context.max_message, &mut out);
    nlri.iter().for_each(|prefix| builder.push(prefix));
    builder.finish();
    let mut prefixes = Vec::new();
    for body in bodies(&mut out, context) {
        let update = Update::decode(&body, context).expect("a withdrawal of ours is well-formed");
        assert!(update.announced.is_empty() && update.faults.is_empty());
        assert_eq!(update.end_of_rib, None, "a withdrawal became an End-of-RIB");
        prefixes.extend(update.withdrawn.iter().flat_map(Nlri::iter));
    }
    assert_eq!(prefixes, nlri.iter().collect::<Vec<_>>());
}

/// What is understood, said by ourselves, is understood the same.
fn announced_again(announced: &Announced<'_>, context: &Context) {
    let decoded = codec::decode_attributes(&announced.attributes, context);
    let again = codec::decode_attributes(&announced.attributes, context);
    assert_eq!(decoded, again, "a disposition is not stable");
    let Ok(decoded) = decoded else { return };
    assert!(decoded.discarded.len() <= MOST_FAULTS);
    let attributes = decoded.attributes;
    is_bounded(&attributes, announced.attributes.len());
    let mut canonical = attributes.clone();
    canonical.canonicalize();
    assert_eq!(attributes, canonical);
    let next_hop = (attributes.next_hop).expect("an announced route has a next hop");

    let mut block = Vec::new();
    codec::encode_block(&attributes, true, &mut block);
    let without = Attributes {
        next_hop: None,
        ..attributes.clone()
    };
    assert_eq!(codec::decode_block(&block), without);

    block.clear();
    codec::encode_block(&attributes, context.four_octet_as, &mut block);
    let (family, max) = (announced.nlri.family(), context.max_message);
    let mut out = BytesMut::new();
    let Ok(mut builder) = UpdateBuilder::announce(&block, next_hop, family, max, &mut out) else {
        return; // AS4_PATH and AS4_AGGREGATOR may take it over what a message holds
    };
    announced
        .nlri
        .iter()
        .for_each(|prefix| builder.push(prefix));
    builder.finish();
    let mut prefixes = Vec::new();
    for body in bodies(&mut out, context) {
        let update = Update::decode(&body, context).expect("an UPDATE of ours is well-formed");
        assert!(update.withdrawn.is_empty() && update.faults.is_empty());
        for announced in &update.announced {
            let decoded = codec::decode_attributes(&announced.attributes, context)
                .expect("our attributes are well-formed");
            assert_eq!(decoded.discarded, []);
            assert_eq!(decoded.attributes, attributes);
            prefixes.extend(announced.nlri.iter());
        }
    }
    assert_eq!(prefixes, announced.nlri.iter().collect::<Vec<_>>());
}

/// No list is longer than the octets that it came in.
fn is_bounded(attributes: &Attributes, octets: usize) {
    let unknown: usize = attributes.unknown.iter().map(|a| 3 + a.value.len()).sum();
    let taken = 2 * attributes.as_path.asns.len()
        + 4 * attributes.communities.len()
        + 12 * attributes.large_communities.len()
        + 8 * attributes.extended_communities.len()
        + 4 * attributes.cluster_list.len()
        + unknown;
    assert!(taken <= octets, "{octets} octets became {taken}");
}

/// The bodies of the UPDATEs in `out`; each as long as the peer takes.
fn bodies(out: &mut BytesMut, context: &Context) -> Vec<bytes::Bytes> {
    let mut bodies = Vec::new();
    while let Some(message) =
        codec::next_message(out, context.max_message).expect("a message of ours is well-formed")
    {
        let Message::Update(body) = message else {
            panic!("{message:?} instead of an UPDATE");
        };
        bodies.push(body);
    }
    assert!(out.is_empty());
    bodies
}

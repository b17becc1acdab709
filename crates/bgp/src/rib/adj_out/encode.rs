//! UPDATEs for a group, packed full.

use bytes::BytesMut;

use super::Out;
use super::changes::Changes;
use crate::codec::UpdateBuilder;
use crate::rib::attrs::AttrStore;
use crate::rib::export::{self, Export};
use crate::rib::table::Key;

/// A prefix to be announced.
#[derive(Clone, Copy)]
pub(super) struct Item<P> {
    pub(super) out: Out,
    pub(super) slot: u32,
    prefix: P,
}

impl<P: Key> Item<P> {
    pub(super) fn new(out: Out, slot: u32, prefix: P) -> Item<P> {
        Item { out, slot, prefix }
    }

    /// Whether two prefixes fit into one UPDATE.
    pub(super) fn same_attributes(&self, other: &Item<P>) -> bool {
        (self.out.set, self.out.change) == (other.out.set, other.out.change)
    }
}

/// Puts prefixes with equal attributes side by side.
pub(super) fn sort<P: Key>(items: &mut [Item<P>]) {
    // Mostly they are so already; a stable sort finds runs.
    items.sort_by_key(|item| (item.out.set, item.out.change));
}

/// Appends UPDATEs for prefixes with equal attributes; false: not one fits into a message.
pub(super) fn announce<P: Key>(
    export: &Export,
    changes: &Changes,
    attrs: &AttrStore,
    run: &[Item<P>],
    out: &mut BytesMut,
) -> bool {
    let Some(first) = run.first() else {
        return true;
    };
    let Some(change) = changes.get(first.out.change) else {
        return false; // an index is given out by the list it is for
    };
    let mut block = Vec::with_capacity(256);
    let encoded = export::encode(export, P::FAMILY, change, first.out.set, attrs, &mut block);
    let Ok(next_hop) = encoded else {
        return false; // whoever judged the route has looked for a next hop already
    };
    match UpdateBuilder::announce(&block, next_hop, P::FAMILY, export.max_message, out) {
        Ok(mut builder) => {
            for item in run {
                builder.push(item.prefix);
            }
            builder.finish();
            true
        }
        Err(_) => false,
    }
}

/// Appends UPDATEs that withdraw prefixes.
pub(super) fn withdraw<P: Key>(export: &Export, prefixes: &[P], out: &mut BytesMut) {
    if prefixes.is_empty() {
        return;
    }
    let mut builder = UpdateBuilder::withdraw(P::FAMILY, export.max_message, out);
    for prefix in prefixes {
        builder.push(*prefix);
    }
    builder.finish();
}

//! The rules that keep bridges of containers apart, and hide those that masquerade: written by the plugin, and put
//! back by us when somebody takes them away, so that nobody has to wait for the next container.

use cni::bridges::{Says, TABLE, restored};
use kernel::{Netlink, NetlinkError, Nft, list};

use super::Problem;
use super::tables::{Goal, bring};
use crate::desired::chain;

/// Room for a list of links.
const RECEIVE: usize = 1 << 20;

/// Puts back what is lost, and says why it is not.
pub(super) fn put_back(nft: Result<&mut Nft, &str>) -> Option<Problem> {
    let outcome = noted().map_err(|error| chain(&error)).and_then(|noted| {
        if noted.is_empty() {
            return Ok(()); // whatever becomes of nftables
        }
        let nft = nft.map_err(str::to_owned)?;
        let steps = bring(nft, TABLE, |actual| match restored(&noted, actual) {
            Some(table) => Goal::Be(Some(table)),
            None => Goal::AsItIs,
        });
        let steps = steps.map_err(|error| chain(&error))?;
        if !steps.is_empty() {
            tracing::warn!(
                table = TABLE,
                "rules for bridges of containers were lost; put back"
            );
        }
        Ok(())
    });
    let why = outcome.err()?;
    let message = format!(
        "table inet {TABLE} of nftables cannot be looked after: {why}; if somebody takes it away, bridges of \
         containers reach each other, and what ipMasq hides does not get out, until the next container comes"
    );
    Some(("Nftables", message))
}

/// What the notes on this host's bridges say.
fn noted() -> Result<Vec<Says>, NetlinkError> {
    let mut netlink = Netlink::open(RECEIVE)?;
    let links = list::links(&mut netlink)?.into_iter();
    Ok(links
        .filter_map(|link| Says::read(&link.name, &link.alias))
        .collect())
}

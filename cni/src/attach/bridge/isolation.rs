//! Bridges of one host do not reach each other, unless each of both names the other one in `connected`; internal
//! ones reach nothing else at all.
//!
//! A table of nftables, which all networks of the host have in common. It is put right at each ADD, before the
//! bridge gets a port: by what the network's own configuration says, and, if somebody took rules away, by the
//! notes on the other bridges, which say what theirs said.

use cni::bridges::{Says, TABLE, desired, without};
use cni::spec::{Code, Error};
use kernel::Netlink;
use kernel::nft::table::plan;
use kernel::nft::{Nft, NftError, Table};

use crate::request::{Request, chain};

/// How often it is tried again when somebody changes nftables meanwhile.
const TRIES: usize = 50;

/// What the network says of its bridge.
pub(super) fn says(request: &Request) -> Says {
    let config = &request.config;
    Says {
        bridge: super::name(request),
        internal: config.internal,
        connected: config.connected.clone(),
        masquerade: config.ip_masq,
    }
}

/// Makes the rules be there for the network's bridge, as its configuration wants them.
pub(super) fn arrange(request: &Request, host: &mut Netlink) -> Result<(), Error> {
    let attempt = || format!("keep the bridge {} apart from others", super::name(request));
    let ours = says(request);
    let mut all = vec![ours.clone()];
    change(&attempt, |actual| {
        let wanted = desired(&all, actual);
        if plan(Some(&wanted), actual).is_empty() {
            return Ok(Some(wanted));
        }
        // A bridge that is new, or a table that somebody took away.
        all = super::noted(host)?;
        all.retain(|says| says.bridge != ours.bridge);
        all.push(ours.clone());
        Ok(Some(desired(&all, actual)))
    })
}

/// What is not as [`arrange`] left it.
pub(super) fn check(request: &Request) -> Result<Vec<String>, Error> {
    let attempt = || format!("list the table inet {TABLE}");
    let mut nft = Nft::open().map_err(|error| failed(&attempt(), &error.into()))?;
    let (actual, _) = nft
        .list(TABLE)
        .map_err(|error| failed(&attempt(), &error))?;
    let wanted = desired(&[says(request)], actual.as_ref());
    Ok(match plan(Some(&wanted), actual.as_ref()).is_empty() {
        true => Vec::new(),
        false => vec![format!(
            "the table inet {TABLE} of nftables does not keep the bridge {} apart from others as configured \
             (the next ADD on its network puts it right)",
            super::name(request)
        )],
    })
}

/// Takes away what there is about a bridge that is gone.
pub(super) fn forget(bridge: &str) -> Result<(), Error> {
    let attempt = || format!("remove the bridge {bridge} from the table inet {TABLE}");
    change(&attempt, |actual| {
        Ok(actual.and_then(|actual| without(actual, bridge)))
    })
}

/// Makes the table be as `wanted` says of the one that is there.
fn change(
    attempt: &impl Fn() -> String,
    mut wanted: impl FnMut(Option<&Table>) -> Result<Option<Table>, Error>,
) -> Result<(), Error> {
    let failed = |error: NftError| failed(&attempt(), &error);
    let mut nft = Nft::open().map_err(|error| failed(error.into()))?;
    for _ in 0..TRIES {
        let (actual, since) = nft.list(TABLE).map_err(failed)?;
        let desired = wanted(actual.as_ref())?;
        let steps = plan(desired.as_ref(), actual.as_ref());
        if steps.is_empty() {
            return Ok(());
        }
        let batch = desired.unwrap_or_default().batch(TABLE, &steps);
        match nft.commit(&batch, Some(since)) {
            Err(NftError::Changed) => {}
            outcome => return outcome.map_err(failed),
        }
    }
    Err(failed(NftError::Changed))
}

fn failed(attempt: &str, error: &NftError) -> Error {
    let failed = Error::new(Code::Kernel, format!("cannot {attempt}: {}", chain(error)));
    match error {
        error if error.says_unsupported() => failed.details(
            "mode \"bridge\" needs nftables (CONFIG_NF_TABLES_INET, CONFIG_NFT_REJECT_INET): modprobe nf_tables",
        ),
        NftError::Changed => Error {
            code: Code::TryAgainLater,
            ..failed
        },
        _ => failed,
    }
}

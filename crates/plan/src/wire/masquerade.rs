//! Masquerade.

use bgp::types::Prefix;
use proto::controller::v1 as pb;

use super::{WireError, each, text, texts};
use crate::{Masquerade, MasqueradedPool};

pub(super) fn to_proto(masquerade: &Masquerade) -> pb::Masquerade {
    let pools = masquerade.pools.iter().map(|pool| pb::MasqueradedPool {
        pool: pool.pool.clone(),
        subnets: texts(&pool.subnets),
        exempt: texts(&pool.exempt),
    });
    pb::Masquerade {
        pools: pools.collect(),
        direct: texts(&masquerade.direct),
    }
}

pub(super) fn from_proto(masquerade: pb::Masquerade) -> Result<Masquerade, WireError> {
    let pools = each("masquerade.pools", masquerade.pools, |at, pool| {
        Ok(MasqueradedPool {
            pool: pool.pool,
            subnets: each(&format!("{at}.subnets"), pool.subnets, prefix)?,
            exempt: each(&format!("{at}.exempt"), pool.exempt, prefix)?,
        })
    })?;
    let direct = each("masquerade.direct", masquerade.direct, prefix)?;
    Ok(Masquerade {
        pools,
        direct: direct.into(),
    })
}

fn prefix(at: &str, prefix: String) -> Result<Prefix, WireError> {
    text(at, &prefix, "a prefix")
}

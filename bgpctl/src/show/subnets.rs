//! `show subnets`.

use proto::controller::v1::ListSubnetsRequest;

use crate::client::{Connector, controller_refused};
use crate::error::Failure;
use crate::output::{GOOD, Output, SOON};
use crate::table::{Cell, Column, Table};
use crate::time::{age, now, until};
use crate::view;

pub(crate) async fn show(connector: &Connector<'_>, output: Output) -> Result<(), Failure> {
    let mut admin = connector.controller().await?;
    let answer = admin.list_subnets(ListSubnetsRequest {}).await;
    let mut leases = answer.map_err(controller_refused)?.into_inner().subnets;
    let wanted = connector.named_nodes();
    leases.retain(|lease| wanted.is_empty() || wanted.contains(&lease.node));
    if !output.is_table() {
        let mut list = output.list();
        for lease in &leases {
            list.push(&view::SubnetLease::from(lease))?;
        }
        return list.finish();
    }
    if leases.is_empty() {
        output.warn("no subnets are given out; they come out of resources of kind Pool");
        return Ok(());
    }
    let columns = vec![
        Column::text("SUBNET"),
        Column::text("POOL"),
        Column::text("NODE"),
        Column::text("STATE"),
        Column::text("SINCE"),
        Column::number("USED"),
        Column::optional("FREE IN"),
    ];
    let mut table = Table::new(output, output.writer(), columns);
    let now = now();
    for lease in &leases {
        let waiting = lease.free_at_ms != 0;
        table.push(vec![
            lease.prefix.as_str().into(),
            lease.pool.as_str().into(),
            lease.node.as_str().into(),
            Cell::styled(if waiting { SOON } else { GOOD }, lease.state.as_str()),
            age(lease.since_ms, now).into(),
            used(lease.used, lease.size).into(),
            match waiting {
                true => until(lease.free_at_ms, now).into(),
                false => Cell::default(),
            },
        ])?;
    }
    table.finish().map(drop)
}

/// Addresses taken, of those there are; a /64 has too many to count.
fn used(used: u64, size: u64) -> String {
    match size {
        0 => used.to_string(),
        size if size > 1 << 20 => used.to_string(),
        size => format!("{used}/{size}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sizes_that_mean_something_are_shown() {
        assert_eq!(used(3, 256), "3/256");
        assert_eq!(used(3, u64::MAX), "3");
    }
}

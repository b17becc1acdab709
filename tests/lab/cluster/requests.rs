//! What the API server was asked, by its own count.

use std::collections::BTreeMap;

use anyhow::Context as _;

use super::Cluster;

/// Requests that change something, or try to.
const WRITES: [&str; 6] = [
    "POST",
    "PUT",
    "PATCH",
    "APPLY",
    "DELETE",
    "DELETECOLLECTION",
];

impl Cluster {
    /// How many requests the API server has had so far, by verb and resource, from anybody. Watches and
    /// what is asked about Leases are left out.
    ///
    /// # Errors
    ///
    /// When it does not say.
    pub async fn requests(&self) -> anyhow::Result<BTreeMap<String, u64>> {
        let request = http::Request::get("/metrics").body(Vec::new())?;
        let text = self.client().request_text(request).await?;
        let mut all = BTreeMap::new();
        for line in text.lines() {
            let Some(rest) = line.strip_prefix("apiserver_request_total{") else {
                continue;
            };
            let (labels, count) = rest.rsplit_once("} ").with_context(|| line.to_owned())?;
            let label = |name: &str| {
                let found = labels.split(&format!("{name}=\"")).nth(1)?;
                found.split('"').next()
            };
            let verb = label("verb").unwrap_or_default();
            let resource = label("resource").unwrap_or_default();
            if matches!(verb, "WATCH" | "CONNECT") || matches!(resource, "" | "leases") {
                continue;
            }
            let count: f64 = count.trim().parse()?;
            *all.entry(format!("{verb} {resource}")).or_default() += count as u64;
        }
        Ok(all)
    }

    /// The writes among them.
    ///
    /// # Errors
    ///
    /// As [`Cluster::requests`].
    pub async fn writes(&self) -> anyhow::Result<BTreeMap<String, u64>> {
        let mut all = self.requests().await?;
        all.retain(|what, _| WRITES.iter().any(|verb| what.starts_with(verb)));
        Ok(all)
    }
}

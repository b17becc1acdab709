//! Why a prefix is, or is not, where it should be.

use proto::speaker::v1 as speaker;
use serde::Serialize;

use super::routes::{Attributes, Route};
use super::{Text, some};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Explanation<'a> {
    prefix: String,
    summary: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    covering: Text,
    candidates: Vec<Candidate<'a>>,
    advertised: Vec<AdvertisedTo<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kernel: Option<KernelState>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Candidate<'a> {
    outcome: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Text,
    #[serde(skip_serializing_if = "Option::is_none")]
    lost_to: Text,
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Text,
    #[serde(skip_serializing_if = "Option::is_none")]
    import: Option<PolicyTrace>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_hop: Option<NextHop>,
    /// As received.
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<Route<'a>>,
    /// After import policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    accepted: Option<Attributes<'a>>,
}

#[derive(Serialize)]
struct PolicyTrace {
    verdict: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Text,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Text,
    text: String,
}

#[derive(Serialize)]
struct NextHop {
    address: String,
    resolved: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    via: Text,
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Text,
    metric: u32,
}

#[derive(Serialize)]
struct AdvertisedTo<'a> {
    peer: String,
    state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Text,
    #[serde(skip_serializing_if = "Option::is_none")]
    export: Option<PolicyTrace>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attributes: Option<Attributes<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct KernelState {
    state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Text,
    next_hops: Vec<String>,
    table: u32,
    protocol: u32,
    metric: u32,
}

impl From<&speaker::PolicyTrace> for PolicyTrace {
    fn from(trace: &speaker::PolicyTrace) -> PolicyTrace {
        PolicyTrace {
            verdict: trace.verdict.clone(),
            policy: some(&trace.policy),
            rule: some(&trace.rule),
            text: trace.text.clone(),
        }
    }
}

impl<'a> From<&'a speaker::Candidate> for Candidate<'a> {
    fn from(candidate: &'a speaker::Candidate) -> Candidate<'a> {
        Candidate {
            outcome: candidate.outcome.clone(),
            reason: some(&candidate.reason),
            lost_to: some(&candidate.lost_to),
            step: some(&candidate.step),
            import: candidate.import.as_ref().map(PolicyTrace::from),
            next_hop: candidate.next_hop.as_ref().map(|next_hop| NextHop {
                address: next_hop.address.clone(),
                resolved: next_hop.resolved,
                via: some(&next_hop.via),
                interface: some(&next_hop.interface),
                metric: next_hop.metric,
            }),
            route: candidate.route.as_ref().map(Route::from),
            accepted: candidate.accepted.as_ref().map(Attributes::from),
        }
    }
}

impl<'a> From<&'a speaker::Explanation> for Explanation<'a> {
    fn from(explanation: &'a speaker::Explanation) -> Explanation<'a> {
        let advertised = explanation.advertised.iter().map(|to| AdvertisedTo {
            peer: to.peer.clone(),
            state: to.state.clone(),
            reason: some(&to.reason),
            export: to.export.as_ref().map(PolicyTrace::from),
            attributes: to.attributes.as_ref().map(Attributes::from),
        });
        Explanation {
            prefix: explanation.prefix.clone(),
            summary: explanation.summary.clone(),
            covering: some(&explanation.covering),
            candidates: explanation.candidates.iter().map(Candidate::from).collect(),
            advertised: advertised.collect(),
            kernel: explanation.kernel.as_ref().map(|kernel| KernelState {
                state: kernel.state.clone(),
                text: some(&kernel.text),
                next_hops: kernel.next_hops.clone(),
                table: kernel.table,
                protocol: kernel.protocol,
                metric: kernel.metric,
            }),
        }
    }
}

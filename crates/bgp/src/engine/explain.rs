//! The whole story of one prefix: every candidate and what became of it, every peer and what it is
//! told. Nothing of this is kept; it is worked out again with the rules in force.

use std::borrow::Cow;
use std::sync::Arc;

use super::Engine;
use super::peers::Peer;
use crate::policy::Subject;
use crate::query::{
    Candidate, Explanation, Export, ExportState, Outcome, PolicyTrace, Reason, Refusal, Withheld,
};
use crate::rib::adj_in::Martian;
use crate::rib::loc::FamilyRib;
use crate::rib::table::{Fate, Path};
use crate::types::{PeerId, Prefix};

impl Engine {
    /// The whole story of one prefix.
    pub fn explain(&self, prefix: Prefix) -> Explanation {
        let mut explanation = Explanation {
            prefix,
            candidates: Vec::new(),
            exports: Vec::new(),
            next_hops: Vec::new(),
            fib_pending: false,
            covering: self.covering(prefix, false),
        };
        match prefix {
            Prefix::V4(prefix) => self.explain_in(&self.v4, prefix, &mut explanation),
            Prefix::V6(prefix) => self.explain_in(&self.v6, prefix, &mut explanation),
        }
        explanation
    }

    fn explain_in<P: Martian>(&self, rib: &FamilyRib<P>, prefix: P, explanation: &mut Explanation) {
        let slot = rib.table.find(prefix);
        if let Some(slot) = slot {
            let losses = self.losses(rib, slot);
            for (index, path) in rib.table.paths(slot) {
                let loss = losses.iter().find(|(lost, _)| *lost == index);
                let loss = loss.map(|(_, reason)| reason.clone());
                explanation
                    .candidates
                    .push(self.candidate(rib, prefix, path, loss));
            }
            let entry = &rib.table.entries[slot];
            explanation.fib_pending = entry.fib_queued;
            if let Some(set) = self.shared.sets.get(entry.fib) {
                explanation.next_hops.clone_from(&set.hops);
            }
        }
        for id in &self.order {
            if let Some(peer) = self.peers.get(id) {
                explanation
                    .exports
                    .push(self.export(rib, prefix, slot, *id, peer));
            }
        }
    }

    fn candidate<P: Martian>(
        &self,
        rib: &FamilyRib<P>,
        prefix: P,
        path: &Path,
        loss: Option<Reason>,
    ) -> Candidate {
        let attrs = &self.shared.attrs;
        let received = Arc::new(attrs.attributes(path.received));
        let accepted = match path.accepted {
            set if set == path.received => Some(received.clone()),
            set => set.is_some().then(|| Arc::new(attrs.attributes(set))),
        };
        let outcome = match (path.fate, &loss) {
            (Fate::Best, _) => Outcome::Best,
            (Fate::Multipath, _) => Outcome::Multipath,
            (Fate::Refused(refusal), _) => Outcome::Refused(refusal),
            (Fate::Lost(_), Some(Reason::Lost { step, to })) => Outcome::Lost {
                step: *step,
                to: to.clone(),
            },
            (Fate::Lost(step), _) => Outcome::Lost { step, to: None },
        };
        let next_hop = accepted.as_ref().unwrap_or(&received).next_hop;
        let mut route = self.row(rib, prefix, path, received.clone());
        if let Some(loss) = loss {
            route.reason = Some(loss);
        }
        Candidate {
            route,
            accepted,
            import: self.import_trace(prefix, path),
            next_hop: next_hop.map(|next_hop| {
                let state = self.shared.hops.state(next_hop.address).cloned();
                (next_hop.address, state)
            }),
            outcome,
        }
    }

    /// What import policy says, where it is asked at all.
    fn import_trace<P: Martian>(&self, prefix: P, path: &Path) -> Option<PolicyTrace> {
        let origin = self.shared.source(path.source)?;
        origin.peer?;
        let asked = match path.fate {
            Fate::Refused(refusal) => matches!(
                refusal,
                Refusal::NoImportPolicy
                    | Refusal::ImportPolicy
                    | Refusal::NextHopUnresolved
                    | Refusal::NextHopNotConnected
                    | Refusal::SessionDown
            ),
            Fate::Best | Fate::Multipath | Fate::Lost(_) => true,
        };
        let subject = Subject {
            prefix: prefix.into(),
            source: origin.kind,
            peer: Some(&origin.name),
            advertisement: None,
        };
        asked.then(|| {
            let attributes = self.shared.attrs.attributes(path.received);
            let verdict = origin.import.judge(&subject, &mut Cow::Owned(attributes));
            origin.import.trace(&verdict)
        })
    }

    /// What a peer is told of a prefix, and why.
    fn export<P: Martian>(
        &self,
        rib: &FamilyRib<P>,
        prefix: P,
        slot: Option<u32>,
        id: PeerId,
        peer: &Peer,
    ) -> Export {
        let mut answer = Export {
            peer: peer.name.clone(),
            state: ExportState::NotAdvertised(Withheld::NoRoute),
            policy: None,
            attributes: None,
        };
        let withheld = |reason| ExportState::NotAdvertised(reason);
        if peer.up.is_none() {
            answer.state = withheld(Withheld::SessionDown);
            return answer;
        }
        let Some((group, member)) = rib
            .group_of(id)
            .and_then(|group| Some((group, group.member(id)?)))
        else {
            answer.state = withheld(Withheld::FamilyNotNegotiated);
            return answer;
        };
        let Some(slot) = slot else { return answer };
        let told = member.told.contains(slot);
        let pending = group.is_pending(member, slot);
        let not_sent = |reason| match told {
            true => ExportState::Pending, // the withdrawal is on its way
            false => withheld(reason),
        };
        let Some(path) = rib.table.best(slot) else {
            answer.state = not_sent(Withheld::NoRoute);
            return answer;
        };
        if self.shared.peer_of(path.source) == Some(id) {
            answer.state = not_sent(Withheld::SplitHorizon);
            return answer;
        }
        let asked_for_by = rib.originated.get(&prefix).map_or(&[][..], Vec::as_slice);
        let (export, rules) = (&group.export, &group.rules);
        let judged = export.judge(rules, &self.shared, prefix.into(), path, asked_for_by);
        answer.policy = judged.trace;
        let shaped = judged.outcome.and_then(|change| {
            let accepted = self.shared.attrs.attributes(path.accepted);
            export.shape(P::FAMILY, &change, accepted)
        });
        answer.state = match shaped {
            Err(reason) => not_sent(reason),
            Ok((attributes, next_hop)) => {
                let fits = export.fits(P::FAMILY, &attributes, next_hop);
                answer.attributes = Some(Arc::new(attributes));
                match (fits, told && !pending) {
                    (false, _) => not_sent(Withheld::TooLong),
                    (true, true) => ExportState::Advertised,
                    (true, false) => ExportState::Pending,
                }
            }
        };
        answer
    }
}

//! A whole engine, whatever happens in whichever order: RFC 4271 §9.
//!
//! [`world`] has the five peers around it and carries out what it asks for; [`menu`] has the few
//! attributes, policies and decision rules that the input chooses among, in the engine's words;
//! [`model`] says what must come of it, computed anew from what each peer said last and what is
//! configured now, in the simplest way there is.

mod menu;
mod model;
mod world;

use std::time::Duration;

use bgp::message::RefreshKind;
use bgp::types::Family;

use crate::input::Input;
use menu::{PEERS, POLICIES_IN, POLICIES_OUT, RULES};
use world::World;

/// How many events of one input are played: what is behind them adds nothing but time.
const MOST_EVENTS: usize = 400;

/// Each octet chooses what happens next, or says what an event is about.
pub fn decision(data: &[u8]) {
    let mut input = Input::new(data);
    let mut world = World::new();
    for _ in 0..MOST_EVENTS {
        if input.is_empty() {
            break;
        }
        happen(&mut world, &mut input);
    }
    world.unblock_all();
    world.settle();
    world.check();
}

fn happen(world: &mut World, input: &mut Input<'_>) {
    let what = input.below(32);
    let peer = input.below(PEERS);
    match what {
        0..=7 => {
            let (family, which) = (family(input), input.byte());
            let attributes = menu::attributes(input, peer, family);
            world.announce(peer, family, which, &attributes);
        }
        8..=10 => {
            let (family, which) = (family(input), input.byte());
            world.withdraw(peer, family, which);
        }
        11 => world.drop(peer),
        12 | 13 => world.come(peer),
        14 => world.configure(|wanted| wanted.peers[peer].import = input.below(POLICIES_IN)),
        15 => world.configure(|wanted| wanted.peers[peer].export = input.below(POLICIES_OUT)),
        16 => world.configure(|wanted| {
            wanted.peers[peer].next_hop = *input.pick(&menu::NEXT_HOP_MODES);
        }),
        17 => world.configure(|wanted| wanted.rules = input.below(RULES)),
        18 => world.configure(|wanted| wanted.originate = input.byte()),
        19 => world.configure(|wanted| wanted.heard_by = input.byte()),
        20 => world.configure(|wanted| {
            let which = input.byte();
            (wanted.own_subnet, wanted.cluster) = (which & 1 != 0, which & 2 != 0);
        }),
        21 => world.configure(|wanted| wanted.peers[peer].configured ^= input.below(4) == 3),
        22 => world.configure(|wanted| {
            let peer = &mut wanted.peers[peer];
            peer.allow_own_as ^= 1;
            peer.client ^= peer.allow_own_as == 0;
        }),
        23 | 24 => {
            let (which, state) = (input.byte(), input.byte());
            world.hop(usize::from(which), state);
        }
        25 => {
            let family = family(input);
            match input.below(4) {
                0 => world.soft_reset(peer),
                1 => world.refresh(peer, family, RefreshKind::Begin),
                2 => world.refresh(peer, family, RefreshKind::End),
                _ => world.refresh(peer, family, RefreshKind::Request),
            }
        }
        26 => world.block(peer),
        27 => world.block_fib(),
        28 => world.wait(Duration::from_secs(u64::from(input.byte()) / 4)),
        29 => world.turn(),
        30 => world.hold_answers(input.flag()),
        _ => {
            world.settle();
            world.check();
        }
    }
}

fn family(input: &mut Input<'_>) -> Family {
    Family::ALL[input.below(2)]
}

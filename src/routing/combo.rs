//! Virtual models: one name for several models, of which one answers.
//!
//! A conversation stays where it began, because that is where its prompt cache is. New ones go round,
//! by weight. What is not remembered (after a restart, or in a replica) is found again by a hash that
//! gives every conversation the same order of targets everywhere.

use std::{num::NonZeroUsize, sync::Mutex};

use lru::LruCache;
use sha2::{Digest as _, Sha256};

use super::Route;
use crate::{
    config::{Combo, Strategy, Target},
    model::{AssistantPart, Message, Part, Prompt},
};

/// Conversations whose target is remembered, over all combos.
const MAX_REMEMBERED: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();

/// Tells conversations apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conversation([u8; 16]);

impl Conversation {
    /// Of the key that a caller gives its turns, else of how the conversation began.
    pub fn of(prompt: &Prompt) -> Self {
        let mut digest = Sha256::new();
        match &prompt.prompt_cache_key {
            Some(key) => digest.update(key),
            None => {
                prompt.system.iter().for_each(|text| digest.update(text));
                let begun = prompt.messages.iter().find_map(|message| match message {
                    Message::User(parts) => Some(parts),
                    _ => None,
                });
                for part in begun.into_iter().flatten() {
                    match part {
                        Part::Text(text) => digest.update(text),
                        Part::Image(image) => digest.update(&image.url),
                    }
                }
            }
        }
        let mut key = [0; 16];
        key.copy_from_slice(&digest.finalize()[..16]);
        Self(key)
    }
}

/// Whether the model has answered in it before.
fn goes_on(prompt: &Prompt) -> bool {
    prompt.messages.iter().any(|message| match message {
        Message::Assistant(parts) => {
            parts.iter().any(|part| !matches!(part, AssistantPart::Reasoning { .. }))
        }
        _ => false,
    })
}

/// Why a target of a combo is the first that is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// The conversation was there before.
    Stays,
    /// It is the first that the config names.
    First,
    /// The conversation goes on, and nobody remembers where it was: found by its hash.
    Found,
    /// A new conversation, and its turn.
    Turn,
    /// The provider of the one before it is switched off.
    Next,
}

/// Which target each conversation has, and whose turn it is.
#[derive(Debug)]
pub struct Affinity(Mutex<State>);

#[derive(Debug)]
struct State {
    targets: LruCache<(String, Conversation), Route>,
    turns: LruCache<String, u64>,
}

impl Default for Affinity {
    fn default() -> Self {
        let (targets, turns) = (LruCache::new(MAX_REMEMBERED), LruCache::new(MAX_REMEMBERED));
        Self(Mutex::new(State { targets, turns }))
    }
}

impl Affinity {
    /// The targets of a combo in the order in which they are tried for a prompt, and why the first is.
    pub fn order(&self, name: &str, combo: &Combo, prompt: &Prompt) -> (Vec<Route>, Placed) {
        let targets: Vec<Route> = combo.targets.iter().map(route).collect();
        let (first, placed) = self.first(name, combo, Conversation::of(prompt), goes_on(prompt));
        let mut order = targets;
        let chosen = order.remove(first);
        match combo.strategy {
            // The others in their order.
            Strategy::Failover => order.insert(0, chosen),
            Strategy::RoundRobin => {
                order.rotate_left(first);
                order.insert(0, chosen);
            }
        }
        (order, placed)
    }

    fn first(
        &self,
        name: &str,
        combo: &Combo,
        conversation: Conversation,
        goes_on: bool,
    ) -> (usize, Placed) {
        let mut state = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let known = state.targets.get(&(name.to_owned(), conversation));
        let known =
            known.and_then(|known| combo.targets.iter().position(|target| route(target) == *known));
        match known {
            Some(known) if goes_on => (known, Placed::Stays),
            _ if combo.strategy == Strategy::Failover => (0, Placed::First),
            _ if goes_on => (by_hash(combo, conversation), Placed::Found),
            _ => {
                let turn = state.turns.get_or_insert_mut(name.to_owned(), || 0);
                *turn += 1;
                (by_weight(combo, *turn - 1), Placed::Turn)
            }
        }
    }

    /// A target answered: the conversation stays with it.
    pub fn remember(&self, name: &str, prompt: &Prompt, route: &Route) {
        let mut state = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        state.targets.put((name.to_owned(), Conversation::of(prompt)), route.clone());
    }
}

fn route(target: &Target) -> Route {
    Route { provider: target.provider.clone(), model: target.model.clone() }
}

/// The target of the `turn`th new conversation.
fn by_weight(combo: &Combo, turn: u64) -> usize {
    let total: u64 = combo.targets.iter().map(|target| u64::from(target.weight)).sum();
    let mut left = turn % total.max(1);
    for (n, target) in combo.targets.iter().enumerate() {
        match left.checked_sub(target.weight.into()) {
            Some(rest) => left = rest,
            None => return n,
        }
    }
    0
}

/// Weighted rendezvous: the same everywhere, and few conversations move when a target comes or goes.
/// Source: Schindelhauer and Schomaker, "Weighted Distributed Hash Tables", 2005.
fn by_hash(combo: &Combo, conversation: Conversation) -> usize {
    let score = |target: &Target| {
        let mut digest = Sha256::new();
        digest.update(conversation.0);
        digest.update(target.provider.as_str());
        digest.update(target.model.as_str());
        let bytes: [u8; 8] = digest.finalize()[..8].try_into().unwrap_or_default();
        // In (0, 1): the logarithm is finite.
        let uniform =
            (u64::from_be_bytes(bytes) >> 11) as f64 / (1_u64 << 53) as f64 + f64::EPSILON;
        -f64::from(target.weight) / uniform.ln()
    };
    let scores = combo.targets.iter().map(score).enumerate();
    scores.max_by(|(_, a), (_, b)| a.total_cmp(b)).map_or(0, |(n, _)| n)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::{callers::Protocol, config::Strategy};

    fn combo(strategy: Strategy, weights: &[u32]) -> Combo {
        let target = |(n, weight): (usize, &u32)| Target {
            provider: format!("p{n}").as_str().into(),
            model: "m".into(),
            weight: *weight,
        };
        Combo { strategy, targets: weights.iter().enumerate().map(target).collect() }
    }

    fn prompt(input: Value) -> Prompt {
        let body = json!({"model": "m", "input": input}).to_string();
        Protocol::Responses.parse(body.into()).unwrap().prompt
    }

    fn first(affinity: &Affinity, combo: &Combo, prompt: &Prompt) -> String {
        affinity.order("c", combo, prompt).0[0].provider.to_string()
    }

    fn conversation(name: &str, answered: bool) -> Prompt {
        let mut input = vec![json!({"role": "user", "content": name})];
        if answered {
            input.push(json!({"role": "assistant", "content": "yes"}));
            input.push(json!({"role": "user", "content": "more"}));
        }
        prompt(input.into())
    }

    #[test]
    fn new_conversations_go_round_by_weight_and_stay_where_they_began() {
        let (affinity, combo) = (Affinity::default(), combo(Strategy::RoundRobin, &[2, 1]));
        let mut began = Vec::new();
        for n in 0..6 {
            let prompt = conversation(&n.to_string(), false);
            let (order, _) = affinity.order("c", &combo, &prompt);
            affinity.remember("c", &prompt, &order[0]);
            began.push(order[0].provider.to_string());
        }
        assert_eq!(began, ["p0", "p0", "p1", "p0", "p0", "p1"]);
        for (n, began) in began.iter().enumerate() {
            assert_eq!(first(&affinity, &combo, &conversation(&n.to_string(), true)), *began);
        }
    }

    #[test]
    fn failover_keeps_its_order() {
        let (affinity, combo) = (Affinity::default(), combo(Strategy::Failover, &[1, 1, 1]));
        for n in 0..3 {
            assert_eq!(first(&affinity, &combo, &conversation(&n.to_string(), n > 0)), "p0");
        }
        // Where a conversation went on when the first failed is where its prompt cache is.
        let route = Route { provider: "p1".into(), model: "m".into() };
        affinity.remember("c", &conversation("moved", false), &route);
        let (order, placed) = affinity.order("c", &combo, &conversation("moved", true));
        assert_eq!(placed, Placed::Stays);
        let names: Vec<_> = order.iter().map(|route| route.provider.as_str()).collect();
        assert_eq!(names, ["p1", "p0", "p2"]);
        assert_eq!(first(&affinity, &combo, &conversation("moved", false)), "p0", "a new one");
    }

    #[test]
    fn what_is_forgotten_is_found_again_by_its_hash_and_weights_count() {
        let combo = combo(Strategy::RoundRobin, &[3, 1]);
        let mut counts = [0, 0];
        for n in 0..400 {
            let prompt = conversation(&n.to_string(), true);
            let here = first(&Affinity::default(), &combo, &prompt);
            assert_eq!(here, first(&Affinity::default(), &combo, &prompt), "{n}");
            counts[usize::from(here == "p1")] += 1;
        }
        assert!((240..=360).contains(&counts[0]), "{counts:?}");
    }

    proptest! {
        #[test]
        fn p17_every_target_is_tried_once(
            weights in proptest::collection::vec(1_u32..5, 1..6),
            name in "[a-z]{0,8}",
            answered in any::<bool>(),
        ) {
            let combo = combo(Strategy::RoundRobin, &weights);
            let (order, _) = Affinity::default().order("c", &combo, &conversation(&name, answered));
            let mut seen: Vec<_> = order.iter().map(|route| route.provider.to_string()).collect();
            seen.sort();
            seen.dedup();
            prop_assert_eq!(seen.len(), weights.len());
        }
    }
}

//! Call ids of any origin → ids that Anthropic takes: `[A-Za-z0-9_-]`, at most 64.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
};

use crate::model::sanitize_wire_name;

/// Maps ids one to one, in the order in which they come, so that a history that only grows keeps
/// the ids it had.
#[derive(Debug, Default)]
pub(super) struct IdMap {
    known: HashMap<String, String>,
    taken: HashSet<String>,
}

impl IdMap {
    pub fn get(&mut self, id: &str) -> String {
        if let Some(known) = self.known.get(id) {
            return known.clone();
        }
        let legal = sanitize_wire_name(id);
        let mut chosen = legal.clone();
        let mut n = 2;
        while self.taken.contains(chosen.as_ref()) {
            // Room for the number, whatever the length.
            chosen = Cow::Owned(format!("{}-{n}", &legal[..legal.len().min(56)]));
            n += 1;
        }
        let chosen = chosen.into_owned();
        self.taken.insert(chosen.clone());
        self.known.insert(id.to_owned(), chosen.clone());
        chosen
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn legal_ids_stay_and_others_never_meet() {
        let mut map = IdMap::default();
        assert_eq!(map.get("toolu_01A-b"), "toolu_01A-b");
        assert_eq!(map.get("a.b"), "a_b");
        assert_eq!(map.get("a:b"), "a_b-2");
        assert_eq!(map.get("a_b"), "a_b-3");
        assert_eq!(map.get("a.b"), "a_b");
    }

    proptest! {
        #[test]
        fn the_map_is_injective_and_legal(ids in proptest::collection::hash_set("\\PC{1,80}", 1..20)) {
            let mut map = IdMap::default();
            let mapped: HashSet<String> = ids.iter().map(|id| map.get(id)).collect();
            prop_assert_eq!(mapped.len(), ids.len());
            for id in mapped {
                let legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
                prop_assert!(!id.is_empty() && id.len() <= 64 && id.chars().all(legal), "{}", id);
            }
        }
    }
}

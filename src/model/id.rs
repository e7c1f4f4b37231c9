//! Names that must not be mixed up, and the ids we mint.

use std::{borrow::Borrow, fmt, sync::Arc};

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

name! {
    /// The key of a provider in `config.json`.
    ProviderId
}

name! {
    /// A model as its upstream names it.
    ModelId
}

/// Mints the ids of one response: the same seed gives the same ids, so snapshots need no redaction.
#[derive(Clone, Debug)]
pub struct Ids {
    seed: u128,
    next: u128,
}

impl Ids {
    /// Starts from `seed`, which must be random in production: ids of two responses may not meet.
    pub fn new(seed: u128) -> Self {
        Self { seed, next: 0 }
    }

    /// A new id: `prefix`, an underscore, 32 hexadecimal digits.
    pub fn mint(&mut self, prefix: &str) -> String {
        // An odd multiplier visits every value once, so ids of one response never repeat.
        const STRIDE: u128 = 0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835;
        let value = self.seed.wrapping_add(self.next.wrapping_mul(STRIDE));
        self.next += 1;
        format!("{prefix}_{value:032x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_reproducible_and_distinct() {
        let (mut a, mut b) = (Ids::new(7), Ids::new(7));
        let first: Vec<_> = (0..100).map(|_| a.mint("msg")).collect();
        let second: Vec<_> = (0..100).map(|_| b.mint("msg")).collect();
        assert_eq!(first, second);
        let distinct: std::collections::HashSet<_> = first.iter().collect();
        assert_eq!(distinct.len(), 100);
        assert!(first.iter().all(|id| id.len() == 4 + 32 && id.starts_with("msg_")));
    }
}

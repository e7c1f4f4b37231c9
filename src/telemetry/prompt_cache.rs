//! Whether an upstream's prompt cache should know a turn: it begins as an earlier one did. Beside what
//! upstreams say of their caches, this tells when caching is lost.

use std::{
    hash::{BuildHasher as _, Hash, Hasher},
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use foldhash::fast::{FixedState, FoldHasher};
use lru::LruCache;

use crate::model::Prompt;

/// Turns that are remembered.
const MAX_REMEMBERED: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();
/// Caches keep nothing shorter: 4096 tokens with some models, of about four bytes each.
const MIN_BYTES: u64 = 16 << 10;
/// And no longer than this, if they are not asked. Source: docs.anthropic.com/en/docs/build-with-claude/prompt-caching,
/// platform.openai.com/docs/guides/prompt-caching.
const KEPT: Duration = Duration::from_secs(300);

/// Remembers how turns began, as hashes.
#[derive(Debug)]
pub struct PromptCache(Mutex<LruCache<u64, Instant>>);

impl Default for PromptCache {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(MAX_REMEMBERED)))
    }
}

impl PromptCache {
    /// Notes a turn that goes to a provider's model; whether its cache should know how it begins.
    pub fn expects(&self, provider: &str, model: &str, prompt: &Prompt, now: Instant) -> bool {
        let beginnings = beginnings(provider, model, prompt);
        let Some((whole, earlier)) = beginnings.split_last() else { return false };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The same question again counts, too.
        let expected = earlier.iter().chain([whole]).any(|beginning| {
            known.peek(beginning).is_some_and(|asked| now.saturating_duration_since(*asked) < KEPT)
        });
        known.put(*whole, now);
        expected
    }
}

/// A hash of the prompt up to each of its messages, the last one being all of it. Only of beginnings
/// that are long enough to be cached.
fn beginnings(provider: &str, model: &str, prompt: &Prompt) -> Vec<u64> {
    let mut hasher = Counting { hasher: FixedState::default().build_hasher(), bytes: 0 };
    (provider, model, &prompt.system).hash(&mut hasher);
    for tool in &prompt.tools {
        (&tool.wire_name, &tool.description, tool.parameters.get()).hash(&mut hasher);
    }
    let mut beginnings = Vec::with_capacity(prompt.messages.len());
    for message in &prompt.messages {
        message.hash(&mut hasher);
        if hasher.bytes >= MIN_BYTES {
            beginnings.push(hasher.finish());
        }
    }
    beginnings
}

/// Counts what it hashes.
struct Counting {
    hasher: FoldHasher<'static>,
    bytes: u64,
}

impl Hasher for Counting {
    fn finish(&self) -> u64 {
        self.hasher.finish()
    }

    fn write(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.hasher.write(bytes);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::{Message, Part};

    fn prompt(texts: &[&str]) -> Prompt {
        let say = |text: &&str| Message::User(vec![Part::Text((*text).to_owned())]);
        Prompt { messages: texts.iter().map(say).collect(), ..empty() }
    }

    fn empty() -> Prompt {
        Prompt {
            system: vec![json!("rules ").to_string().repeat(4000)],
            messages: Vec::new(),
            tools: Vec::new(),
            tool_choice: crate::model::ToolChoice::Auto,
            parallel_tool_calls: None,
            sampling: Default::default(),
            reasoning: Default::default(),
            output: Default::default(),
            stream: true,
            previous_response_id: None,
            prompt_cache_key: None,
            service_tier: None,
            compaction: false,
            losses: Default::default(),
            raw: None,
        }
    }

    #[test]
    fn what_goes_on_from_an_earlier_turn_is_expected_and_what_begins_otherwise_is_not() {
        let (cache, now) = (PromptCache::default(), Instant::now());
        let ask = |texts: &[&str], at: Instant| cache.expects("p", "m", &prompt(texts), at);
        assert!(!ask(&["a"], now));
        assert!(ask(&["a", "b"], now), "it goes on");
        assert!(ask(&["a", "b", "c", "d", "e"], now), "by more than one message");
        assert!(!ask(&["x", "b", "c"], now), "another beginning");
        assert!(!ask(&["a b"], now), "as one message");
        assert!(!cache.expects("p", "other", &prompt(&["a", "b"]), now));
        assert!(!cache.expects("q", "m", &prompt(&["a", "b"]), now));
        assert!(!ask(&["a", "b", "f"], now + KEPT), "too late");
        let short = Prompt { system: Vec::new(), ..prompt(&["a"]) };
        assert!(!cache.expects("p", "m", &short, now));
        assert!(!cache.expects("p", "m", &short, now), "too short for any cache");
    }
}

//! `auth.json` as text: today's shape, the one before it, and what can be saved of a broken one.
//!
//! `{"<provider>": {"activeAccountId": …, "accounts": [{"id": …, "credential": {"access", "refresh",
//! "expires", …}, "needsReauth"?, "addedAt"?}]}}`; before that `{"<provider>": {"access", "refresh",
//! "expires", "email"?, "accountId"?}}`, which is read and, with the next change, written anew.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, value::RawValue};

use super::account::{Account, WireAccount, WireCredential};

/// The id of an account whose vendor told none.
const NAMELESS: &str = "default";

/// Every account of every provider.
#[derive(Clone, Debug, Default)]
pub struct Store {
    providers: IndexMap<String, Entry>,
}

#[derive(Clone, Debug)]
enum Entry {
    Known(WireAccounts),
    /// Not ours, or of a later version: kept as it is.
    Foreign(Value),
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireAccounts {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    active_account_id: Option<String>,
    accounts: Vec<Slot>,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

/// One account of a list; one that cannot be read costs none of the others.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Slot {
    Account(Box<WireAccount>),
    Foreign(Value),
}

/// The accounts of one provider.
#[derive(Clone, Debug, Default)]
pub struct Accounts {
    /// The id of the one to use first.
    pub active: Option<String>,
    /// All of them, in the order of the file.
    pub list: Vec<Account>,
}

impl Accounts {
    /// The account to use: the active one, or else the first whose login still holds.
    pub fn usable(&self) -> Option<&Account> {
        let holds = |account: &&Account| account.needs_login.is_none();
        let active = self.list.iter().find(|account| Some(&account.id) == self.active.as_ref());
        active.filter(holds).or_else(|| self.list.iter().find(holds))
    }
}

/// What became of reading.
pub(super) enum Reading {
    Sound(Store),
    Broken { salvaged: Store, damage: String },
}

impl Store {
    pub(super) fn read(text: &str) -> Reading {
        if text.trim().is_empty() {
            return Reading::Broken { salvaged: Self::default(), damage: "it is empty".to_owned() };
        }
        match serde_json::from_str::<IndexMap<String, Value>>(text) {
            Ok(entries) => Reading::Sound(Self {
                providers: entries.into_iter().map(|(id, value)| (id, entry(value))).collect(),
            }),
            Err(error) => Reading::Broken {
                salvaged: salvage(text),
                damage: format!("no JSON object: {error}"),
            },
        }
    }

    pub(super) fn to_text(&self) -> String {
        let entries: IndexMap<&String, Value> = self
            .providers
            .iter()
            .map(|(id, entry)| {
                let value = match entry {
                    Entry::Known(accounts) => serde_json::to_value(accounts).unwrap_or_default(),
                    Entry::Foreign(value) => value.clone(),
                };
                (id, value)
            })
            .collect();
        // Strings, numbers and parsed JSON serialise.
        let mut text = serde_json::to_string_pretty(&entries).unwrap_or_default();
        text.push('\n');
        text
    }

    /// Providers that have accounts.
    pub fn providers(&self) -> impl Iterator<Item = &str> {
        self.providers.iter().filter_map(|(id, entry)| match entry {
            Entry::Known(accounts) if !accounts.accounts.is_empty() => Some(id.as_str()),
            _ => None,
        })
    }

    /// The accounts of a provider.
    pub fn accounts(&self, provider: &str) -> Accounts {
        let Some(Entry::Known(known)) = self.providers.get(provider) else {
            return Accounts::default();
        };
        let list = known.accounts.iter().filter_map(|slot| match slot {
            Slot::Account(account) => Some(account.account(provider)),
            Slot::Foreign(_) => None,
        });
        Accounts { active: known.active_account_id.clone(), list: list.collect() }
    }

    /// Adds a login, or puts it in the place of an earlier one of the same account; it becomes the
    /// active one.
    pub fn log_in(&mut self, account: &Account) {
        let mut account = account.clone();
        let known = self.known(&account.provider);
        known.active_account_id = Some(account.id.clone());
        match find(known, &account.id) {
            Some(slot) => {
                // Nobody may take the former tokens for newer ones.
                account.generation = slot.credential.generation + 1;
                slot.update(&account);
            }
            None => {
                let mut slot = WireAccount::default();
                slot.update(&account);
                known.accounts.push(Slot::Account(Box::new(slot)));
            }
        }
    }

    /// Takes over what a refresh brought, unless the file knows something newer, or the login that was
    /// renewed is gone: somebody logged out meanwhile, or in again.
    pub fn renew(&mut self, account: &Account) {
        if let Some(Entry::Known(known)) = self.providers.get_mut(&account.provider)
            && let Some(slot) = find(known, &account.id)
            && slot.added_at.unwrap_or_default() == account.added_at
            && slot.credential.generation < account.generation
        {
            slot.update(account);
        }
    }

    /// Notes that this login of the account ended, unless the file knows newer tokens of it.
    pub fn end_login(&mut self, account: &Account, reason: &str) {
        if let Some(Entry::Known(known)) = self.providers.get_mut(&account.provider)
            && let Some(slot) = find(known, &account.id)
            && slot.added_at.unwrap_or_default() == account.added_at
            && slot.credential.generation <= account.generation
        {
            slot.needs_reauth = Some(true);
            slot.reauth_reason = Some(reason.to_owned());
        }
    }

    /// Takes an account out, or all of a provider. Tells how many went.
    pub fn log_out(&mut self, provider: &str, account: Option<&str>) -> usize {
        let Some(Entry::Known(known)) = self.providers.get_mut(provider) else {
            return 0;
        };
        let before = known.accounts.len();
        known.accounts.retain(|slot| match (slot, account) {
            (Slot::Account(slot), Some(id)) => {
                slot.id != id && slot.credential.email.as_deref() != Some(id)
            }
            (Slot::Foreign(_), Some(_)) => true,
            (_, None) => false,
        });
        let left = known.accounts.len();
        let ids: Vec<&String> = known
            .accounts
            .iter()
            .filter_map(|slot| match slot {
                Slot::Account(slot) => Some(&slot.id),
                Slot::Foreign(_) => None,
            })
            .collect();
        if !known.active_account_id.as_ref().is_some_and(|active| ids.contains(&active)) {
            known.active_account_id = ids.first().map(|id| (*id).clone());
        }
        if left == 0 {
            self.providers.shift_remove(provider);
        }
        before - left
    }

    /// Makes an account, by id or address, the one to use first. Tells whether there is one.
    pub fn activate(&mut self, provider: &str, account: &str) -> bool {
        let Some(Entry::Known(known)) = self.providers.get_mut(provider) else {
            return false;
        };
        let found = known.accounts.iter().find_map(|slot| match slot {
            Slot::Account(slot)
                if slot.id == account || slot.credential.email.as_deref() == Some(account) =>
            {
                Some(slot.id.clone())
            }
            _ => None,
        });
        let is_there = found.is_some();
        known.active_account_id = found.or(known.active_account_id.take());
        is_there
    }

    /// Takes over what an older copy knows and this one does not.
    pub(super) fn fill_from(&mut self, former: Self) {
        for (id, entry) in former.providers {
            self.providers.entry(id).or_insert(entry);
        }
    }

    fn known(&mut self, provider: &str) -> &mut WireAccounts {
        let entry = self
            .providers
            .entry(provider.to_owned())
            .or_insert_with(|| Entry::Known(WireAccounts::default()));
        if let Entry::Foreign(_) = entry {
            *entry = Entry::Known(WireAccounts::default());
        }
        match entry {
            Entry::Known(known) => known,
            Entry::Foreign(_) => unreachable!("it was replaced above"),
        }
    }
}

fn find<'a>(known: &'a mut WireAccounts, id: &str) -> Option<&'a mut WireAccount> {
    known.accounts.iter_mut().find_map(|slot| match slot {
        Slot::Account(slot) if slot.id == id => Some(&mut **slot),
        _ => None,
    })
}

fn entry(value: Value) -> Entry {
    if value.get("accounts").is_some() {
        return match serde_json::from_value::<WireAccounts>(value.clone()) {
            Ok(mut known) => {
                known.accounts.iter_mut().for_each(reread);
                Entry::Known(known)
            }
            Err(_) => Entry::Foreign(value),
        };
    }
    // The shape before: one account, its credential alone.
    match serde_json::from_value::<WireCredential>(value.clone()) {
        Ok(credential) if !credential.access.is_empty() => {
            let id = credential.account_id.clone().unwrap_or_else(|| NAMELESS.to_owned());
            let account = WireAccount { id: id.clone(), credential, ..WireAccount::default() };
            let accounts = vec![Slot::Account(Box::new(account))];
            let active_account_id = Some(id);
            Entry::Known(WireAccounts { active_account_id, accounts, extra: Map::new() })
        }
        _ => Entry::Foreign(value),
    }
}

/// An account without tokens is none of ours.
fn reread(slot: &mut Slot) {
    if let Slot::Account(account) = slot
        && (account.credential.access.is_empty() || account.id.is_empty())
    {
        *slot = Slot::Foreign(serde_json::to_value(&*account).unwrap_or_default());
    }
}

/// The entries of a broken text that are whole: those before the break, and those after it that can
/// be found again by the beginning of their line.
fn salvage(text: &str) -> Store {
    let mut store = Store::default();
    let mut rest = text.trim_start().strip_prefix('{').unwrap_or(text);
    while let Some((id, value, after)) = next_entry(rest) {
        if let Ok(value) = serde_json::from_str(value.get())
            && let known @ Entry::Known(_) = entry(value)
        {
            store.providers.entry(id).or_insert(known);
        }
        rest = after;
    }
    store
}

fn next_entry(text: &str) -> Option<(String, Box<RawValue>, &str)> {
    let mut from = 0;
    // Whatever begins like `"name":` may be an entry; what is inside another has no tokens of its own
    // at its top, or is a whole entry of the shape before, under a name that no provider has.
    while let Some(at) = text[from..].find('"').map(|at| from + at) {
        if let Some((id, after)) = read_one::<String>(&text[at..])
            && let Some(after) = after.trim_start().strip_prefix(':')
            && after.trim_start().starts_with('{')
            && let Some((value, rest)) = read_one::<Box<RawValue>>(after)
            && id != "credential"
        {
            return Some((id, value, rest));
        }
        from = at + 1;
    }
    None
}

fn read_one<'t, T: Deserialize<'t>>(text: &'t str) -> Option<(T, &'t str)> {
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<T>();
    let value = stream.next()?.ok()?;
    let offset = stream.byte_offset();
    Some((value, &text[offset..]))
}

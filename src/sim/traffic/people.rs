//! Who calls whom.

use super::{Dice, Tenant};

/// The pioneers of our trade, whom nobody will mistake for customers.
const NAMES: [&str; 24] = [
    "Ada Lovelace",
    "Agner Erlang",
    "Alan Turing",
    "Almon Strowger",
    "Barbara Liskov",
    "Claude Shannon",
    "Conny Palm",
    "Donald Knuth",
    "Edsger Dijkstra",
    "Elisha Gray",
    "Emma Nutt",
    "Erna Hoover",
    "Frances Allen",
    "Grace Hopper",
    "Hedy Lamarr",
    "Joe Armstrong",
    "Karen Jones",
    "Leonard Kleinrock",
    "Leslie Lamport",
    "Margaret Hamilton",
    "Philipp Reis",
    "Radia Perlman",
    "Robert Virding",
    "Vint Cerf",
];

/// The first extension of an account.
const FIRST_EXTENSION: usize = 1001;

/// Somebody who can be called.
#[derive(Debug, Clone)]
pub(super) struct Party {
    pub(super) name: String,
    /// An extension, or a number in international form.
    pub(super) number: String,
    /// The id of the device, for people of the account.
    pub(super) device: Option<String>,
    /// The id of the user, for people of the account.
    pub(super) user: Option<String>,
}

impl Party {
    /// Somebody of the account: the same extension is always the same person, with the same ids.
    pub(super) fn inside(dice: &Dice, tenant: &Tenant) -> Self {
        let index = usize::try_from(dice.number(0, NAMES.len() as u64 - 1)).unwrap_or_default();
        let id = |kind| document_id(&tenant.account_id, kind, index);
        Self {
            name: NAMES[index].into(),
            number: (FIRST_EXTENSION + index).to_string(),
            device: Some(id("device")),
            user: Some(id("user")),
        }
    }

    /// Somebody of the account other than `other`.
    pub(super) fn colleague(dice: &Dice, tenant: &Tenant, other: &Self) -> Self {
        loop {
            let party = Self::inside(dice, tenant);
            if party.number != other.number {
                return party;
            }
        }
    }

    /// Somebody outside, with a number from the range that is kept free for fiction: 555-0100 to 555-0199.
    pub(super) fn outside(dice: &Dice) -> Self {
        const AREAS: [&str; 6] = ["212", "312", "415", "512", "617", "702"];
        let area = dice.pick(&AREAS).copied().unwrap_or(AREAS[0]);
        let number = format!("+1{area}555{:04}", dice.number(100, 199));
        let name = match dice.pick(&NAMES) {
            // Most callers from outside have no name.
            Some(name) if dice.chance(0.3) => (*name).to_owned(),
            _ => number.clone(),
        };
        Self { name, number, device: None, user: None }
    }
}

/// The id of a document, 32 hex digits: the same for the same account, kind and index. (FNV-1a: it need not be a good
/// hash, only a stable one.)
fn document_id(account: &str, kind: &str, index: usize) -> String {
    let hash = |seed: u64| {
        [account, kind, &index.to_string()]
            .iter()
            .flat_map(|part| part.bytes().chain([0]))
            .fold(seed, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
    };
    format!("{:016x}{:016x}", hash(0xcbf2_9ce4_8422_2325), hash(0x9ae1_6a3b_2f90_404f))
}

//! Cover: the fewest, safest upstream bindings that contain an interest.

use std::{collections::BTreeSet, fmt};

use super::{Binding, Kind, UpstreamBinding, catalogue::NAMED_OBJECT_TYPES};

/// Which upstream it is. Found out from the shape of its answers, never from configuration alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Flavour {
    /// The master branch of Kazoo 4.
    K4,
    /// Kazoo's release branch 4.3.
    V4_3,
    /// The blackhole of Kazoo 5.
    K5,
}

impl Flavour {
    /// All flavours.
    pub const ALL: [Flavour; 3] = [Flavour::K4, Flavour::V4_3, Flavour::K5];

    /// Its name as it is shown: `k4`, `4.3`, `k5`.
    pub fn as_str(self) -> &'static str {
        match self {
            Flavour::K4 => "k4",
            Flavour::V4_3 => "4.3",
            Flavour::K5 => "k5",
        }
    }

    /// The flavour of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|flavour| flavour.as_str() == name)
    }

    /// Whether there are such events at all. That presence is there does not say that 4.3 has its module loaded: by
    /// default it has not, and then refuses the binding.
    pub fn has(self, kind: Kind) -> bool {
        match kind {
            Kind::Stream => self == Flavour::K5,
            _ => true,
        }
    }
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The cover of an interest for a flavour. A function of these two alone; each binding of the interest that the flavour
/// [has](Flavour::has) is contained in exactly one binding of the cover, and no two of these let the same event through,
/// for upstream would send it once for each (F41).
///
/// Ids are given up: upstream's own cost grows with each binding (F48), so does each of its replies (F25), and a session
/// that never unsubscribes (F37) would collect the ids of all calls that ever were. What is too much is dropped here.
/// The exception is `conference.command`, where all ids would mean those of all tenants (F31).
pub fn cover<'a>(
    interest: impl IntoIterator<Item = &'a Binding>,
    flavour: Flavour,
) -> BTreeSet<UpstreamBinding> {
    let mut texts = BTreeSet::new();
    let mut calls = BTreeSet::new();
    let mut streams = BTreeSet::new();
    let mut objects = Vec::new();
    for binding in interest {
        let kind = binding.kind();
        if !flavour.has(kind) {
            continue;
        }
        let mut words = binding.pattern().words().skip(1);
        let mut word = || words.next().unwrap_or("*");
        match kind {
            Kind::Call => _ = calls.insert(word()),
            Kind::Stream => _ = streams.insert(word()),
            Kind::Object => add_object(&mut objects, (word(), word())),
            Kind::Presence => _ = texts.insert(format!("presence.{}.*", word())),
            Kind::FaxStatus => _ = texts.insert("fax.status.*".to_owned()),
            // `*` is refused for the conference id; `#` is not (F31, G15).
            Kind::ConferenceEvent => {
                let all =
                    if flavour == Flavour::K5 { "conference.event.*.#.*" } else { "conference.event.#.*" };
                texts.insert(all.to_owned());
            }
            Kind::ConferenceCommand => _ = texts.insert(binding.pattern().as_str().to_owned()),
        }
    }
    texts.extend(only_or_all(&calls).map(|event| format!("call.{event}.*")));
    texts.extend(only_or_all(&streams).map(|event| format!("stream.{event}.*")));
    texts.extend(objects.iter().map(|(action, doc_type)| format!("object.{action}.{doc_type}")));
    let cover: BTreeSet<_> = texts.iter().filter_map(|text| UpstreamBinding::parse(text).ok()).collect();
    debug_assert_eq!(cover.len(), texts.len(), "every text made here may be sent: {texts:?}");
    cover
}

/// The one word that is there, `*` for several, nothing for none.
fn only_or_all<'a>(words: &BTreeSet<&'a str>) -> Option<&'a str> {
    match words.len() {
        0 | 1 => words.first().copied(),
        _ => Some("*"),
    }
}

/// Adds an action and a type to those that are there, so that none overlaps another: those that do are replaced by the
/// narrowest that contains them all. The outcome does not depend on the order, for two that overlap can only end up in
/// one, whichever is met first.
fn add_object<'a>(objects: &mut Vec<(&'a str, &'a str)>, (action, doc_type): (&'a str, &'a str)) {
    let named = doc_type == "*" || NAMED_OBJECT_TYPES.contains(&doc_type);
    // Asked for by name it is confirmed and never comes; asked for without a type it does (F35).
    let mut added = (action, if named { doc_type } else { "*" });
    let overlap = |a: &str, b: &str| a == b || a == "*" || b == "*";
    let join = |a: &'a str, b: &str| if a == b { a } else { "*" };
    while let Some(at) =
        objects.iter().position(|other| overlap(other.0, added.0) && overlap(other.1, added.1))
    {
        let other = objects.swap_remove(at);
        added = (join(added.0, other.0), join(added.1, other.1));
    }
    objects.push(added);
}

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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::binding::{
        EventKey, OptIn,
        catalogue::{CALL_EVENTS, OBJECT_ACTIONS, OBJECT_TYPES, PRESENCE_EVENTS, STREAM_EVENTS},
        grammar::tests::any_binding,
    };

    fn texts(interest: &[&str], flavour: Flavour) -> Vec<String> {
        let opt_in = OptIn(Kind::ALL.into());
        let interest: Vec<_> = interest.iter().map(|text| Binding::parse(text, &opt_in).unwrap()).collect();
        let mut texts: Vec<_> = cover(&interest, flavour).iter().map(ToString::to_string).collect();
        texts.sort_unstable();
        texts
    }

    #[test]
    fn widens_to_the_safe_form() {
        for (interest, expected) in [
            (&["call.CHANNEL_CREATE.a.b@c", "call.CHANNEL_CREATE.d"][..], &["call.CHANNEL_CREATE.*"][..]),
            (&["call.CHANNEL_CREATE.*", "call.PARK_PARKED.x"], &["call.*.*"]),
            (&["call.*.x"], &["call.*.*"]),
            (&["conference.event.a.b", "conference.event.*.c"], &["conference.event.#.*"]),
            (
                &["conference.command.a.b", "conference.command.c"],
                &["conference.command.a%2Eb", "conference.command.c"],
            ),
            (&["fax.status.x", "fax.object.doc_created"], &["fax.status.*", "object.doc_created.fax"]),
            (
                &["object.doc_created.user", "object.doc_edited.user"],
                &["object.doc_created.user", "object.doc_edited.user"],
            ),
            (&["object.doc_created.user", "object.*.user"], &["object.*.user"]),
            (&["object.doc_created.*", "object.*.user"], &["object.*.*"]),
            (
                &["object.doc_created.*", "object.doc_edited.user"],
                &["object.doc_created.*", "object.doc_edited.user"],
            ),
            (&["object.doc_created.call_recording"], &["object.doc_created.*"]),
            (&["object.doc_created.call_recording", "object.doc_created.user"], &["object.doc_created.*"]),
            (&["object.doc_created.cdr", "object.*.user"], &["object.*.*"]),
            (&["object.*.call_recording"], &["object.*.*"]),
            (
                &["dialog.x", "presence.dialog.y", "mwi_updates.1001"],
                &["presence.dialog.*", "presence.mwi_updates.*"],
            ),
            (&["stream.start.x"], &[]),
            (&[], &[]),
        ] {
            assert_eq!(texts(interest, Flavour::K4), expected, "{interest:?}");
            assert_eq!(texts(interest, Flavour::V4_3), expected, "{interest:?}");
        }
        assert_eq!(texts(&["conference.event.a.b"], Flavour::K5), ["conference.event.*.#.*"]);
        assert_eq!(texts(&["stream.start.x"], Flavour::K5), ["stream.start.*"]);
        assert_eq!(texts(&["stream.start.x", "stream.stop.y"], Flavour::K5), ["stream.*.*"]);
    }

    #[test]
    fn flavours_have_names() {
        for flavour in Flavour::ALL {
            assert_eq!(Flavour::parse(flavour.as_str()), Some(flavour));
        }
        assert_eq!(Flavour::parse("k6"), None);
    }

    /// A key of each sort of event that there is.
    fn keys() -> Vec<String> {
        let calls = CALL_EVENTS.iter().map(|event| format!("call.{event}.id"));
        let objects = OBJECT_ACTIONS.iter().flat_map(|action| {
            OBJECT_TYPES
                .iter()
                .chain(&["attachment"])
                .map(move |doc_type| format!("object.{action}.{doc_type}"))
        });
        let presence = PRESENCE_EVENTS.iter().map(|event| format!("presence.{event}.id"));
        let streams = STREAM_EVENTS.iter().map(|event| format!("stream.{event}.id"));
        let others = [
            "conference.event.lock.conf.id",
            "conference.event.lock.conf.",
            "fax.status.id",
            "conference.command.a",
        ];
        calls.chain(objects).chain(presence).chain(streams).chain(others.map(str::to_owned)).collect()
    }

    proptest! {
        #[test]
        fn holds_what_it_promises(
            (interest, shuffled) in prop::collection::vec(any_binding(), 0..12)
                .prop_flat_map(|interest| (Just(interest.clone()), Just(interest).prop_shuffle())),
            flavour in prop::sample::select(&Flavour::ALL[..]),
        ) {
            let cover_of_it = cover(&interest, flavour);
            let count = |kind| cover_of_it.iter().filter(|upstream| upstream.kind() == kind).count();

            for binding in &interest {
                let holding = cover_of_it.iter().filter(|up| up.pattern().contains(binding.pattern())).count();
                prop_assert_eq!(holding, usize::from(flavour.has(binding.kind())), "{} in {:?}", binding, &cover_of_it);
            }
            for key in keys() {
                let delivered = cover_of_it.iter().filter(|upstream| upstream.pattern().matches(&key)).count();
                prop_assert!(delivered <= 1, "{} comes {} times of {:?}", key, delivered, &cover_of_it);
            }
            for upstream in &cover_of_it {
                prop_assert_eq!(&UpstreamBinding::parse(upstream.text()).unwrap(), upstream);
                let wanted = |binding: &Binding| upstream.pattern().contains(binding.pattern());
                prop_assert!(interest.iter().any(wanted), "nobody wants {}", upstream);
            }
            for (kind, most) in [
                (Kind::Call, 1),
                (Kind::ConferenceEvent, 1),
                (Kind::FaxStatus, 1),
                (Kind::Presence, PRESENCE_EVENTS.len()),
                (Kind::Stream, 1),
            ] {
                prop_assert!(count(kind) <= most, "{:?}", &cover_of_it);
            }

            prop_assert_eq!(&cover(&shuffled, flavour), &cover_of_it);
            prop_assert_eq!(&cover(interest.iter().chain(&shuffled), flavour), &cover_of_it);
            // What the cover itself asks for is covered by it, and by nothing wider.
            let opt_in = OptIn(Kind::ALL.into());
            let again: Vec<_> = cover_of_it
                .iter()
                .map(|upstream| match upstream.kind() {
                    Kind::ConferenceEvent => "conference.event.*.*".to_owned(),
                    Kind::ConferenceCommand => upstream.text().replace("%2E", "."),
                    _ => upstream.text().to_string(),
                })
                .map(|text| Binding::parse(&text, &opt_in).unwrap())
                .collect();
            prop_assert_eq!(&cover(&again, flavour), &cover_of_it);
        }

        #[test]
        fn grows_with_the_interest(
            interest in prop::collection::vec(any_binding(), 1..10),
            flavour in prop::sample::select(&Flavour::ALL[..]),
        ) {
            let whole = cover(&interest, flavour);
            for upstream in cover(&interest[1..], flavour) {
                prop_assert!(whole.iter().any(|wider| wider.pattern().contains(upstream.pattern())));
            }
        }
    }

    #[test]
    fn brings_the_events_that_were_asked_for() {
        let opt_in = OptIn::default();
        let wanted = Binding::parse("conference.event.*.a.b@c", &opt_in).unwrap();
        let routing_key = "conference.event.del-member.account0000000000000000000000002.conf123.a%2Eb%40c";
        let key = EventKey::from_routing_key(routing_key).unwrap();
        assert!(wanted.pattern().matches(&key.key));
        for flavour in Flavour::ALL {
            assert!(cover([&wanted], flavour).iter().any(|upstream| upstream.pattern().matches(&key.key)));
        }
    }
}

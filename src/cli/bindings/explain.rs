//! What there is to say of a binding: worked out here, printed elsewhere. The fields are the JSON that `--json` prints.

use std::collections::BTreeSet;

use serde::Serialize;

use super::sample;
use crate::binding::{
    Binding, Flavour, Kind, OptIn, UpstreamBinding,
    catalogue::{BindingType, TYPES},
    cover::cover,
};

/// What there is to say of some bindings.
#[derive(Debug, Serialize)]
pub(super) struct Explanation {
    pub(super) bindings: Vec<Explained>,
    /// What is sent for all of them together.
    pub(super) upstream: Vec<Cover>,
}

/// One binding.
#[derive(Debug, Serialize)]
pub(super) struct Explained {
    /// As it was given.
    pub(super) requested: String,
    /// Why a gateway with default settings refuses it; what else is said then holds where an operator turned it on.
    pub(super) refused: Option<String>,
    /// Absent where it is no binding at all.
    #[serde(flatten)]
    pub(super) meaning: Option<Meaning>,
}

/// What a binding means.
#[derive(Debug, Serialize)]
pub(super) struct Meaning {
    /// In canonical form: so `Event.matched_bindings` and `Gap.bindings` have it.
    pub(super) binding: String,
    pub(super) template: &'static str,
    pub(super) kind: &'static str,
    pub(super) description: &'static str,
    /// Routing keys of events that it lets through.
    pub(super) matches: Vec<String>,
    pub(super) upstream: Vec<Cover>,
    /// What it asks for lives in a database of the month, or may.
    pub(super) month_bound: bool,
    /// Upstream shows the events of other tenants too.
    pub(super) crosses_tenants: bool,
    /// The flavours that have it by default.
    pub(super) flavours: Vec<&'static str>,
    pub(super) caveats: Vec<String>,
}

/// What is sent to one flavour.
#[derive(Debug, Serialize)]
pub(super) struct Cover {
    pub(super) flavour: &'static str,
    /// Empty where this flavour has no such events.
    pub(super) sent: Vec<Sent>,
}

#[derive(Debug, Serialize)]
pub(super) struct Sent {
    pub(super) binding: String,
    /// It brings more than was asked for: hawking lets through what was.
    pub(super) wider: bool,
    /// It is bound to the month, at least in part, and bound again when that turns.
    pub(super) month_bound: bool,
}

/// An entry of the catalogue, as JSON.
#[derive(Debug, Serialize)]
pub(super) struct Type {
    template: &'static str,
    kind: &'static str,
    description: &'static str,
    examples: &'static [&'static str],
    caveats: &'static [&'static str],
    flavours: Vec<&'static str>,
    requires_opt_in: bool,
    month_bound: bool,
}

impl Type {
    pub(super) fn of(entry: &BindingType) -> Self {
        let &BindingType { template, kind, description, examples, caveats, .. } = entry;
        let &BindingType { requires_opt_in, month_bound, .. } = entry;
        let (kind, flavours) = (kind.as_str(), names(entry.flavours));
        Self { template, kind, description, examples, caveats, flavours, requires_opt_in, month_bound }
    }
}

fn names(flavours: &[Flavour]) -> Vec<&'static str> {
    flavours.iter().map(|flavour| flavour.as_str()).collect()
}

impl Explanation {
    pub(super) fn of(requested: &[String], flavours: &[Flavour]) -> Self {
        let all = OptIn(Kind::ALL.into());
        let parsed: Vec<_> = requested.iter().map(|text| Binding::parse(text, &all).ok()).collect();
        let bindings = requested
            .iter()
            .zip(&parsed)
            .map(|(requested, parsed)| Explained {
                requested: requested.clone(),
                refused: Binding::parse(requested, &OptIn::default()).err().map(|error| error.to_string()),
                meaning: parsed.as_ref().map(|binding| Meaning::of(requested, binding, flavours)),
            })
            .collect();
        let parsed: Vec<&Binding> = parsed.iter().flatten().collect();
        let upstream = flavours.iter().map(|&flavour| Cover::of(&parsed, flavour)).collect();
        Self { bindings, upstream }
    }

    /// Which of the bindings are not served, in words; `None` where all are.
    pub(super) fn unserved(&self) -> Option<String> {
        let none_has = |explained: &&Explained| {
            let meaning = explained.meaning.as_ref();
            meaning.is_some_and(|meaning| meaning.upstream.iter().all(|cover| cover.sent.is_empty()))
        };
        let quoted = |explained: &Explained| format!("`{}`", explained.requested.escape_debug());
        let refused: Vec<_> =
            self.bindings.iter().filter(|explained| explained.refused.is_some()).map(quoted).collect();
        let missing: Vec<_> = self.bindings.iter().filter(none_has).map(quoted).collect();
        match (refused.as_slice(), missing.as_slice()) {
            ([], []) => None,
            ([], missing) => Some(format!("this flavour does not have {}", missing.join(", "))),
            (refused, _) => Some(format!("a gateway with default settings refuses {}", refused.join(", "))),
        }
    }
}

impl Meaning {
    fn of(requested: &str, binding: &Binding, flavours: &[Flavour]) -> Self {
        let entry = entry(requested, binding);
        let upstream: Vec<Cover> = flavours.iter().map(|&flavour| Cover::of(&[binding], flavour)).collect();
        let mut caveats = Vec::new();
        if requested != binding.as_str() {
            let name = binding.as_str();
            caveats.push(format!("Another name for `{name}`, which is what events and gaps call it."));
        }
        let sent = || upstream.iter().flat_map(|cover| &cover.sent);
        if sent().any(|sent| sent.wider) {
            caveats.push(
                "Upstream is asked for more than this, and hawking picks out what you asked for: narrower forms are \
                 confirmed there and then deliver nothing while another session holds the usual one, or make each reply \
                 longer. The account's traffic to hawking is that of the wider binding."
                    .to_owned(),
            );
        }
        if !binding.month_bound() && sent().any(|sent| sent.month_bound) {
            caveats.push(
                "What you ask for is not bound to the month; other events of the wider binding are."
                    .to_owned(),
            );
        }
        caveats.extend(entry.caveats.iter().map(|&caveat| caveat.to_owned()));
        Self {
            binding: binding.as_str().to_owned(),
            template: entry.template,
            kind: binding.kind().as_str(),
            description: entry.description,
            matches: sample::routing_keys(binding),
            upstream,
            month_bound: binding.month_bound(),
            crosses_tenants: binding.kind().requires_opt_in(),
            flavours: names(entry.flavours),
            caveats,
        }
    }
}

impl Cover {
    fn of(interest: &[&Binding], flavour: Flavour) -> Self {
        let upstream: BTreeSet<UpstreamBinding> = cover(interest.iter().copied(), flavour);
        let sent = upstream.iter().map(|upstream| Sent {
            binding: upstream.text().to_string(),
            wider: !interest.iter().any(|binding| binding.pattern().contains(upstream.pattern())),
            month_bound: upstream.month_bound(),
        });
        Self { flavour: flavour.as_str(), sent: sent.collect() }
    }
}

/// The catalogue's entry for the binding.
fn entry(requested: &str, binding: &Binding) -> &'static BindingType {
    // The same events, explained under the name that was asked for.
    let alias = |entry: &&BindingType| {
        requested.starts_with("fax.object.") == entry.template.starts_with("fax.object.")
    };
    let event = |entry: &&BindingType| {
        let word = |text: &'static str| text.split('.').nth(1);
        binding.kind() != Kind::Presence || word(entry.template) == binding.as_str().split('.').nth(1)
    };
    let of_kind = || TYPES.iter().filter(|entry| entry.kind == binding.kind());
    of_kind().filter(alias).find(event).or_else(|| of_kind().next()).unwrap_or(&TYPES[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explain(bindings: &[&str]) -> Explanation {
        let bindings: Vec<_> = bindings.iter().map(|&binding| binding.to_owned()).collect();
        Explanation::of(&bindings, &Flavour::ALL)
    }

    fn meaning(binding: &str) -> Meaning {
        explain(&[binding]).bindings.remove(0).meaning.unwrap()
    }

    #[test]
    fn every_example_of_the_catalogue_is_explained_by_its_entry() {
        for entry in TYPES {
            for example in entry.examples {
                let explanation = explain(&[example]);
                let explained = &explanation.bindings[0];
                assert_eq!(explained.refused.is_some(), entry.requires_opt_in, "{example}");
                let meaning = explained.meaning.as_ref().unwrap();
                assert_eq!(meaning.template, entry.template, "{example}");
                for cover in &meaning.upstream {
                    let has = entry.kind != Kind::Stream || cover.flavour == "k5";
                    assert_eq!(cover.sent.len(), usize::from(has), "{example} on {}", cover.flavour);
                }
            }
        }
    }

    #[test]
    fn says_what_is_wider_and_what_is_bound_to_the_month() {
        let one = meaning("call.CHANNEL_CREATE.a.b@c");
        assert_eq!(one.upstream[0].sent[0].binding, "call.CHANNEL_CREATE.*");
        assert!(one.upstream[0].sent[0].wider);
        assert_eq!(one.matches, ["call.account0000000000000000000000002.CHANNEL_CREATE.a%2Eb%40c"]);
        assert!(!meaning("call.*.*").upstream[0].sent[0].wider);

        let fax = meaning("object.*.fax");
        assert!(fax.month_bound && fax.upstream[0].sent[0].month_bound);
        assert!(!meaning("object.doc_edited.user").month_bound);
    }

    #[test]
    fn says_that_a_name_is_another_ones() {
        let fax = meaning("fax.object.doc_created");
        assert_eq!((fax.binding.as_str(), fax.template), ("object.doc_created.fax", "fax.object.ACTION"));
        assert!(fax.caveats[0].contains("Another name for `object.doc_created.fax`"));
        assert!(!meaning("object.doc_created.fax").caveats.iter().any(|text| text.contains("Another name")));
    }

    #[test]
    fn together_they_need_no_more_than_the_cover() {
        let explanation = explain(&["call.CHANNEL_CREATE.*", "call.CHANNEL_DESTROY.*"]);
        let sent: Vec<_> = explanation.upstream[0].sent.iter().map(|sent| sent.binding.as_str()).collect();
        assert_eq!(sent, ["call.*.*"]);
        assert_eq!(explanation.unserved(), None);
    }

    #[test]
    fn what_is_refused_has_a_reason_and_what_crosses_tenants_is_explained_all_the_same() {
        let explanation = explain(&["call.CHANNEL_CRATE.*", "conference.command.c", "call.*.*"]);
        let [wrong, crossing, right] = &explanation.bindings[..] else { panic!() };
        assert!(wrong.refused.as_ref().unwrap().contains("CHANNEL_CREATE") && wrong.meaning.is_none());
        assert!(crossing.refused.is_some() && crossing.meaning.as_ref().unwrap().crosses_tenants);
        assert!(right.refused.is_none());
        let unserved = explanation.unserved().unwrap();
        assert!(unserved.contains("`call.CHANNEL_CRATE.*`, `conference.command.c`"), "{unserved}");
    }

    #[test]
    fn a_flavour_that_has_it_not_is_told() {
        let explanation = Explanation::of(&["stream.*.*".to_owned()], &[Flavour::K4]);
        assert!(explanation.unserved().unwrap().contains("does not have `stream.*.*`"));
        assert_eq!(explain(&["stream.*.*"]).unserved(), None);
    }

    #[test]
    fn the_json_is_flat_and_says_null_where_there_is_nothing() {
        let json = serde_json::to_value(explain(&["call.*.*", "x"])).unwrap();
        assert_eq!(json["bindings"][0]["binding"], "call.*.*");
        assert_eq!(json["bindings"][0]["refused"], serde_json::Value::Null);
        assert_eq!(json["bindings"][0]["upstream"][2]["flavour"], "k5");
        assert!(json["bindings"][1].get("binding").is_none());
    }
}

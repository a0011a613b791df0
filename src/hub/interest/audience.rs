//! The views that have a binding, found by what their filters name.

use std::collections::HashMap;

use smallvec::SmallVec;

use crate::hub::{log::IncomingEvent, subscription::EventFilter};

use super::ViewId;

/// The views of one binding. Ten thousand of them may differ in the call that they follow: an event must not ask each.
///
/// A view stands under the narrowest thing that its filter names, its call ids before its names, and under nothing else:
/// an event finds it once, or not at all. What else the filter wants is for the view to say.
#[derive(Debug, Default)]
pub(super) struct Audience {
    by_call_id: Named,
    by_name: Named,
    others: Views,
}

/// Seldom more than one: each view has other bindings, another filter or another format than all the rest.
type Views = SmallVec<[ViewId; 2]>;

type Named = HashMap<Box<str>, Views>;

impl Audience {
    pub(super) fn add(&mut self, filter: &EventFilter, view: ViewId) {
        let Some((by, texts)) = self.place(filter) else { return self.others.push(view) };
        for text in texts {
            // Most texts are known only where many views share them.
            match by.get_mut(text.as_str()) {
                Some(views) => views.push(view),
                None => _ = by.insert(text.as_str().into(), Views::from_slice(&[view])),
            }
        }
    }

    pub(super) fn remove(&mut self, filter: &EventFilter, view: ViewId) {
        let Some((by, texts)) = self.place(filter) else {
            return self.others.retain(|other| *other != view);
        };
        for text in texts {
            let Some(views) = by.get_mut(text.as_str()) else { continue };
            views.retain(|other| *other != view);
            if views.is_empty() {
                by.remove(text.as_str());
            }
        }
    }

    /// Where a view with such a filter stands, unless that is among the others.
    fn place<'a>(&mut self, filter: &'a EventFilter) -> Option<(&mut Named, &'a [String])> {
        if !filter.call_ids.is_empty() {
            Some((&mut self.by_call_id, &filter.call_ids))
        } else if !filter.names.is_empty() {
            Some((&mut self.by_name, &filter.names))
        } else {
            None
        }
    }

    /// The views that an event may belong to.
    pub(super) fn candidates(&self, event: &IncomingEvent) -> [&[ViewId]; 3] {
        [&self.others, named(&self.by_name, event.name()), named(&self.by_call_id, event.call_id())]
    }
}

fn named<'a>(by: &'a Named, text: &str) -> &'a [ViewId] {
    by.get(text).map_or(&[], |views| views)
}

//! What hawking reads in a payload.

use std::borrow::Cow;

use super::scan::{Scalar, Scanner};

/// What hawking reads in a payload. The first of equal keys counts, and a value of another type than expected is as good as
/// absent: a payload is never refused for what it holds.
#[derive(Debug, Clone, Default)]
pub(crate) struct PayloadFacts<'a> {
    /// `msg_id`
    pub message_id: Option<Cow<'a, str>>,
    /// `call_id`
    pub call_id: Option<Cow<'a, str>>,
    /// `event`: the real name of a conference event.
    pub event: Option<Cow<'a, str>>,
    /// `timestamp`, Gregorian seconds.
    pub timestamp: Option<Cow<'a, str>>,
    /// `date_modified`, Gregorian seconds, of objects.
    pub date_modified: Option<Cow<'a, str>>,
    /// `date_created`, Gregorian seconds, of objects.
    pub date_created: Option<Cow<'a, str>>,
}

impl<'a> PayloadFacts<'a> {
    /// Reads them while the scanner passes over the object that it stands before.
    pub(super) fn read(scanner: &mut Scanner<'a>) -> Option<Self> {
        let mut facts = Self::default();
        scanner.members(|scanner, key| {
            let slot = match key.decode().as_deref() {
                Some("msg_id") => &mut facts.message_id,
                Some("call_id") => &mut facts.call_id,
                Some("event") => &mut facts.event,
                Some("timestamp") => &mut facts.timestamp,
                Some("date_modified") => &mut facts.date_modified,
                Some("date_created") => &mut facts.date_created,
                _ => return scanner.pass_over(),
            };
            // Kazoo sends numbers as numbers or as texts (F40). A number stays as it is written.
            let value = match scanner.scalar()? {
                Some(Scalar::Text(text)) => text.decode(),
                Some(Scalar::Number(number)) => Some(Cow::Borrowed(number)),
                None => None,
            };
            if slot.is_none() {
                *slot = value;
            }
            Some(())
        })?;
        Some(facts)
    }
}

//! The outer object of a frame.

use std::borrow::Cow;

use super::{
    facts::PayloadFacts,
    scan::{Scalar, Scanner},
};

/// All that counts in a frame; which of it must be there depends on the action.
#[derive(Default)]
pub(super) struct Envelope<'a> {
    pub(super) action: Member<'a>,
    pub(super) request_id: Member<'a>,
    pub(super) status: Member<'a>,
    /// The client's binding that brought an event.
    pub(super) subscribed_key: Member<'a>,
    pub(super) subscription_key: Member<'a>,
    pub(super) name: Member<'a>,
    pub(super) routing_key: Member<'a>,
    pub(super) data: Option<Data<'a>>,
}

/// A text, unless it is `null` or not there.
#[derive(Default)]
pub(super) enum Member<'a> {
    #[default]
    Absent,
    Null,
    Text(Cow<'a, str>),
}

/// Its facts are there where it is an object.
#[derive(Default)]
pub(super) struct Data<'a> {
    pub(super) text: &'a str,
    pub(super) facts: Option<PayloadFacts<'a>>,
}

impl<'a> Envelope<'a> {
    /// `None` where the text is no JSON object, or a member is of another type than it ever was, or there twice.
    pub(super) fn read(text: &'a str) -> Option<Self> {
        let mut envelope = Self::default();
        let mut scanner = Scanner::new(text);
        scanner.members(|scanner, key| {
            let member = match key.decode()?.as_ref() {
                "action" => &mut envelope.action,
                "request_id" => &mut envelope.request_id,
                "status" => &mut envelope.status,
                "subscribed_key" => &mut envelope.subscribed_key,
                "subscription_key" => &mut envelope.subscription_key,
                "name" => &mut envelope.name,
                "routing_key" => &mut envelope.routing_key,
                "data" if envelope.data.is_none() => {
                    envelope.data = Some(Data::read(scanner)?);
                    return Some(());
                }
                "data" => return None,
                _ => return scanner.pass_over(),
            };
            let value = match scanner.peek()? {
                b'n' => scanner.pass_over().map(|()| Member::Null)?,
                _ => match scanner.scalar()?? {
                    Scalar::Text(text) => Member::Text(text.decode()?),
                    Scalar::Number(_) => return None,
                },
            };
            match std::mem::replace(member, value) {
                Member::Absent => Some(()),
                Member::Null | Member::Text(_) => None,
            }
        })?;
        scanner.end()?;
        Some(envelope)
    }
}

impl<'a> Data<'a> {
    fn read(scanner: &mut Scanner<'a>) -> Option<Self> {
        let mut facts = None;
        let text = scanner.raw(|scanner| {
            if scanner.peek()? == b'{' {
                facts = Some(PayloadFacts::read(scanner)?);
                Some(())
            } else {
                scanner.pass_over()
            }
        })?;
        Some(Self { text, facts })
    }
}

impl<'a> Member<'a> {
    pub(super) fn text(self) -> Option<Cow<'a, str>> {
        match self {
            Self::Text(text) => Some(text),
            Self::Absent | Self::Null => None,
        }
    }
}

//! Cover: the fewest, safest upstream bindings that contain an interest.

use std::{collections::BTreeSet, fmt, sync::Arc};

use super::{Binding, Kind, Pattern};

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
    /// Its name as it is shown: `k4`, `4.3`, `k5`.
    pub fn as_str(self) -> &'static str {
        match self {
            Flavour::K4 => "k4",
            Flavour::V4_3 => "4.3",
            Flavour::K5 => "k5",
        }
    }
}

/// A binding as it is sent to blackhole.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UpstreamBinding {
    /// Its kind.
    pub kind: Kind,
    /// The text sent as `binding`, ids encoded.
    pub text: Arc<str>,
    /// All that it brings, in key space.
    pub pattern: Pattern,
    /// Whether upstream resolves it (or a part of it) to the database of the month in which it was subscribed (F34).
    pub month_bound: bool,
}

impl fmt::Debug for UpstreamBinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The cover of an interest for a flavour. A function of these two alone; each binding of the interest that the flavour
/// can serve is contained in one binding of the cover.
pub fn cover<'a>(
    _interest: impl IntoIterator<Item = &'a Binding>,
    _flavour: Flavour,
) -> BTreeSet<UpstreamBinding> {
    todo!()
}

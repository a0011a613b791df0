//! Running hawking: how it is told to end, and how it does.

pub mod drain;
pub mod shutdown;

//! Running hawking: how it is told to end.

pub mod shutdown;

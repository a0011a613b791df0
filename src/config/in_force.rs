//! Settings that can change while others read them.

use std::sync::Arc;

use parking_lot::RwLock;

/// A section as it is in force. All clones are the same one. It is read where something begins (a connection, a stream), not
/// for each event.
#[derive(Debug)]
pub struct InForce<T>(Arc<RwLock<Arc<T>>>);

impl<T> InForce<T> {
    /// What is in force now. Who keeps it goes on by that.
    pub fn get(&self) -> Arc<T> {
        Arc::clone(&self.0.read())
    }

    /// Something else is in force from now on.
    pub fn set(&self, value: T) {
        *self.0.write() = Arc::new(value);
    }
}

impl<T> From<T> for InForce<T> {
    fn from(value: T) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(value))))
    }
}

// Not derived: that would ask for `T: Clone`.
impl<T> Clone for InForce<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

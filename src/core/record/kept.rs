//! The access log's side of a request's record.

use std::{any::Any, mem, sync::Arc};

use super::{
    record::{Beside, RecordHandle, Sheet},
    slots::RecordData,
};

/// An unfinished record, as its owner holds it.
pub(crate) struct KeptRecord<T> {
    sheet: Arc<Sheet<T>>,
}

impl<T: Beside + 'static> KeptRecord<T> {
    /// Creates a request's record with its owner's data.
    // Inlined, so that it is built in its allocation.
    #[inline(always)]
    pub(crate) fn new(beside: T) -> Self {
        Self {
            sheet: Arc::new(Sheet::new(beside)),
        }
    }

    /// Returns the handle for the layers and the handler.
    pub(crate) fn handle(&self) -> RecordHandle {
        RecordHandle {
            sheet: self.sheet.clone(),
        }
    }

    /// Returns the data of the record's owner.
    pub(crate) fn beside(&self) -> &T {
        &self.sheet.beside
    }

    /// Takes the recorded data, because the record is about to be emitted.
    pub(crate) fn take(&self) -> RecordData {
        mem::take(&mut *self.sheet.lock())
    }
}

impl RecordHandle {
    /// Returns the data of the record's owner, if the data has this type.
    pub(crate) fn beside<T: Beside>(&self) -> Option<&T> {
        (&self.sheet.beside as &dyn Any).downcast_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::http::request_id::RequestId;

    #[test]
    fn taken_data_is_removed_from_the_handle() {
        struct Named(RequestId);

        impl Beside for Named {
            fn request_id(&self) -> Option<&RequestId> {
                Some(&self.0)
            }
        }

        let kept = KeptRecord::new(Named(RequestId::own([b'0'; 36])));
        let record = kept.handle();
        record.set_route("/users/{id}");
        record.add_request_bytes(2);
        record.add_request_bytes(3);
        let slots = kept.take();
        assert_eq!(kept.beside().0.as_str(), "0".repeat(36));
        assert_eq!(record.request_id().unwrap().as_str(), "0".repeat(36));
        assert_eq!(slots.route(), Some("/users/{id}"));
        assert_eq!(slots.request_bytes(), Some(5));
        assert_eq!(record.read(|slots| slots.request_bytes()), None);
    }
}

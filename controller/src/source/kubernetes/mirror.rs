//! What the API server has of one kind, as far as it has told us.

use std::collections::BTreeMap;

use kube::ResourceExt;
use kube::runtime::watcher::Event;

/// The objects of one kind by name.
pub(super) struct Mirror<T> {
    objects: BTreeMap<String, T>,
    /// What a list that is under way has said so far; what it leaves out is gone when it has ended.
    listing: Option<BTreeMap<String, T>>,
    /// A whole list has been seen.
    complete: bool,
}

impl<T> Default for Mirror<T> {
    fn default() -> Mirror<T> {
        Mirror {
            objects: BTreeMap::new(),
            listing: None,
            complete: false,
        }
    }
}

impl<T: PartialEq> Mirror<T> {
    /// Follows an event; `keep` makes what is kept out of the object. Whether anything has changed.
    pub(super) fn follow<K: ResourceExt>(
        &mut self,
        event: Event<K>,
        keep: impl FnOnce(K) -> T,
    ) -> bool {
        match event {
            Event::Init => {
                self.listing = Some(BTreeMap::new());
                false
            }
            Event::InitApply(object) => {
                let listing = self.listing.get_or_insert_default();
                listing.insert(object.name_any(), keep(object));
                false
            }
            Event::InitDone => {
                let listed = self.listing.take().unwrap_or_default();
                let before = std::mem::replace(&mut self.objects, listed);
                let first = !std::mem::replace(&mut self.complete, true);
                first || before != self.objects
            }
            Event::Apply(object) => {
                let name = object.name_any();
                let object = keep(object);
                let same = self.objects.get(&name) == Some(&object);
                self.objects.insert(name, object);
                !same
            }
            Event::Delete(object) => self.objects.remove(&object.name_any()).is_some(),
        }
    }

    /// The kind does not exist: there are none of it.
    pub(super) fn undefined(&mut self) -> bool {
        self.listing = None;
        let first = !std::mem::replace(&mut self.complete, true);
        !std::mem::take(&mut self.objects).is_empty() || first
    }

    /// Whether a whole list has been seen.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    pub(super) fn objects(&self) -> &BTreeMap<String, T> {
        &self.objects
    }
}

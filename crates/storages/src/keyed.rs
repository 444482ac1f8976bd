//! Values by keys of any type. Two keys are the same if they are of one type and equal.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher as _};

/// What a [`Keyed`] may have for keys.
pub trait Key: Clone + Eq + Hash + Send + 'static {}

impl<K: Clone + Eq + Hash + Send + 'static> Key for K {}

/// The values.
pub struct Keyed<V> {
    /// By the keys' hashes.
    entries: HashMap<u64, Vec<Entry<V>>>,
}

/// A key and its value.
type Entry<V> = (Box<dyn Any + Send>, V);

impl<V> Default for Keyed<V> {
    fn default() -> Self {
        Self { entries: HashMap::new() }
    }
}

impl<V> Keyed<V> {
    /// Returns the value of a key, and makes it if it does not exist yet.
    pub fn get_or_insert_with<K: Key>(&mut self, key: &K, make: impl FnOnce() -> V) -> &mut V {
        let same_hash = self.entries.entry(hash_of(key)).or_default();
        let at = same_hash.iter().position(|(other, _)| other.downcast_ref::<K>() == Some(key));
        let at = at.unwrap_or_else(|| {
            same_hash.push((Box::new(key.clone()), make()));
            same_hash.len() - 1
        });
        &mut same_hash[at].1
    }

    /// Keeps only the values for which `keep` returns true.
    pub fn retain(&mut self, mut keep: impl FnMut(&mut V) -> bool) {
        self.entries.retain(|_, same_hash| {
            same_hash.retain_mut(|(_, value)| keep(value));
            !same_hash.is_empty()
        });
    }

    /// Returns all values.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.entries.values().flatten().map(|(_, value)| value)
    }
}

fn hash_of<K: Key>(key: &K) -> u64 {
    let mut hasher = DefaultHasher::new();
    TypeId::of::<K>().hash(&mut hasher);
    key.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_keys_of_one_type_have_one_value() {
        let mut keyed = Keyed::<u32>::default();
        assert_eq!(*keyed.get_or_insert_with(&1_u8, || 1), 1);
        assert_eq!(*keyed.get_or_insert_with(&1_u16, || 2), 2, "it is of another type");
        assert_eq!(*keyed.get_or_insert_with(&1_u8, || 3), 1);
        keyed.retain(|value| *value == 2);
        assert_eq!(keyed.values().collect::<Vec<_>>(), [&2]);
        assert_eq!(*keyed.get_or_insert_with(&1_u8, || 3), 3);
    }
}

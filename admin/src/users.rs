//! [`UserNames`]: which id of the shards' rows is which user.

use std::{collections::HashMap, sync::Arc};

/// User names by id, with an index of the names; built once per change of the users.
///
/// An id that is free at the moment has the name `""`; it belongs to nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserNames {
    by_id: Vec<Arc<str>>,
    ids: HashMap<Arc<str>, usize>,
}

impl UserNames {
    /// Users there are; free ids do not count.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Nobody at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The id of a name.
    #[must_use]
    pub fn id(&self, name: &str) -> Option<usize> {
        self.ids.get(name).copied()
    }

    /// The name of an id that is not free.
    #[must_use]
    pub fn name(&self, id: usize) -> Option<&Arc<str>> {
        self.by_id.get(id).filter(|name| !name.is_empty())
    }

    /// Ids that are not free, ascending, with their names.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &Arc<str>)> {
        let all = self.by_id.iter().enumerate();
        all.filter(|(_, name)| !name.is_empty())
    }
}

impl FromIterator<Arc<str>> for UserNames {
    fn from_iter<T: IntoIterator<Item = Arc<str>>>(names: T) -> Self {
        let by_id: Vec<Arc<str>> = names.into_iter().collect();
        let all = by_id.iter().enumerate();
        let ids = all
            .filter(|(_, name)| !name.is_empty())
            .map(|(id, name)| (Arc::clone(name), id))
            .collect();
        Self { by_id, ids }
    }
}

impl From<Vec<Arc<str>>> for UserNames {
    fn from(names: Vec<Arc<str>>) -> Self {
        names.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ids_belong_to_nobody() {
        let names: UserNames = ["b", "", "a", ""].map(Arc::from).to_vec().into();
        assert_eq!((names.len(), names.is_empty()), (2, false));
        assert_eq!((names.id("a"), names.id("")), (Some(2), None));
        assert_eq!((names.name(1), names.name(9)), (None, None));
        let seen: Vec<_> = names.iter().map(|(id, name)| (id, &**name)).collect();
        assert_eq!(seen, [(0, "b"), (2, "a")]);
        assert!(UserNames::from(vec![Arc::from("")]).is_empty());
    }
}

//! A list whose items are shared between the worlds that hold the same: most events change one.

use std::ops::{Index, IndexMut};
use std::rc::Rc;

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Shared<T>(Vec<Rc<T>>);

impl<T> Shared<T> {
    pub fn new(items: impl IntoIterator<Item = T>) -> Self {
        Self(items.into_iter().map(Rc::new).collect())
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(Rc::as_ref)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn push(&mut self, item: T) {
        self.0.push(Rc::new(item));
    }
}

impl<T> Index<usize> for Shared<T> {
    type Output = T;

    fn index(&self, at: usize) -> &T {
        &self.0[at]
    }
}

impl<T: Clone> IndexMut<usize> for Shared<T> {
    fn index_mut(&mut self, at: usize) -> &mut T {
        Rc::make_mut(&mut self.0[at])
    }
}

//! What is to happen, by its time; of the same time, what was put there first happens first.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Events by time. They are large, so what is kept in order are their places.
#[derive(Debug)]
pub(crate) struct Queue<E> {
    /// Time, number and place.
    order: BinaryHeap<Reverse<(u64, u32, u32)>>,
    places: Vec<Option<E>>,
    free: Vec<u32>,
    /// How many events there have been.
    count: u32,
}

impl<E> Default for Queue<E> {
    fn default() -> Queue<E> {
        Queue { order: BinaryHeap::new(), places: Vec::new(), free: Vec::new(), count: 0 }
    }
}

impl<E> Queue<E> {
    pub(crate) fn push(&mut self, at: u64, event: E) {
        self.count = self.count.checked_add(1).expect("no run has so many events");
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            self.places.len() as u32 - 1
        });
        self.places[place as usize] = Some(event);
        self.order.push(Reverse((at, self.count, place)));
    }

    /// The next event, and its time.
    pub(crate) fn pop(&mut self) -> Option<(u64, E)> {
        let Reverse((at, _, place)) = self.order.pop()?;
        self.free.push(place);
        self.places[place as usize].take().map(|event| (at, event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A seed is one run only while what is due at the same time keeps its order.
    #[test]
    fn events_come_by_their_time_and_of_one_time_in_their_order() {
        let mut queue = Queue::default();
        for (at, event) in [(20, 'c'), (10, 'a'), (20, 'd'), (10, 'b')] {
            queue.push(at, event);
        }
        assert_eq!(queue.pop(), Some((10, 'a')));
        queue.push(20, 'e');
        queue.push(5, '!');
        let rest: String = std::iter::from_fn(|| queue.pop()).map(|(_, event)| event).collect();
        assert_eq!(rest, "!bcde");
    }
}

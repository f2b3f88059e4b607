//! Numbers of the messages of one session and direction: a repeated one is dropped, a missing one noticed.

/// What a message's number says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// It is the next one, or comes from a side that does not number its messages (0).
    Next,
    /// It was there before: it must not be obeyed again.
    Repeated,
    /// Others before it are missing: the session cannot go on, the next Hello says all anew.
    Gap {
        /// The number that was due.
        expected: u64,
    },
}

/// The receiving end; numbers count from 1.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sequence {
    last: u64,
}

impl Sequence {
    /// Looks at the number of a message that came.
    pub fn accept(&mut self, seq: u64) -> Order {
        if seq == 0 {
            return Order::Next;
        }
        let expected = self.last.saturating_add(1);
        if seq < expected {
            return Order::Repeated;
        }
        if seq > expected {
            return Order::Gap { expected };
        }
        self.last = seq;
        Order::Next
    }

    /// The number of the last message that was next; 0: none was.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_14_repeated_and_reordered_messages_are_told_from_the_next_one() {
        let mut sequence = Sequence::default();
        assert_eq!(sequence.accept(1), Order::Next);
        assert_eq!(sequence.accept(1), Order::Repeated);
        assert_eq!(sequence.accept(3), Order::Gap { expected: 2 });
        assert_eq!(sequence.accept(2), Order::Next, "what came too early does not count");
        assert_eq!(sequence.accept(3), Order::Next);
        assert_eq!(sequence.accept(1), Order::Repeated);
        assert_eq!(sequence.last(), 3);
        assert_eq!(sequence.accept(0), Order::Next, "an older version does not number its messages");
        assert_eq!(sequence.last(), 3);
    }
}

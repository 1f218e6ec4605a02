//! Publishes that the broker has not answered yet.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

type Answer<A> = Pin<Box<dyn Future<Output = A> + Send>>;

/// Futures that are polled when they are woken, and only then.
///
/// What it adds to a plain set of futures is the word *all*: [`Self::poll_answers`] returns every
/// answer that was there when it returns. See [`Returns`](super::returns::Returns) for what needs
/// that. Besides, the wakers are kept, so nothing is allocated for a message here.
pub(crate) struct InFlight<E, A> {
    slots: Vec<Option<(E, Answer<A>)>>,
    wakers: Vec<(Arc<SlotWaker>, Waker)>,
    free: Vec<usize>,
    ready: Arc<Ready>,
    /// Reused from one poll to the next.
    woken: Vec<usize>,
    answered: Vec<(E, A)>,
}

#[derive(Default)]
struct Ready {
    woken: Mutex<Vec<usize>>,
    task: AtomicWaker,
}

struct SlotWaker {
    slot: usize,
    woken: AtomicBool,
    ready: Arc<Ready>,
}

impl Wake for SlotWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.woken.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut woken = self.ready.woken.lock().unwrap_or_else(PoisonError::into_inner);
        woken.push(self.slot);
        let first = woken.len() == 1;
        drop(woken);
        if first {
            self.ready.task.wake();
        }
    }
}

impl<E, A> InFlight<E, A> {
    pub(crate) fn new() -> Self {
        Self {
            slots: Vec::new(),
            wakers: Vec::new(),
            free: Vec::new(),
            ready: Arc::default(),
            woken: Vec::new(),
            answered: Vec::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len() + self.answered.len()
    }

    /// Adds a future and polls it at once, which for a publish means: hands the message over.
    pub(crate) fn push(&mut self, entry: E, answer: impl Future<Output = A> + Send + 'static) {
        let slot = self.free.pop().unwrap_or_else(|| {
            let slot = self.slots.len();
            let ready = self.ready.clone();
            let waker = Arc::new(SlotWaker { slot, woken: AtomicBool::new(false), ready });
            self.slots.push(None);
            self.wakers.push((waker.clone(), waker.into()));
            slot
        });
        self.slots[slot] = Some((entry, Box::pin(answer)));
        self.poll_slot(slot);
    }

    fn poll_slot(&mut self, slot: usize) {
        let (flag, waker) = &self.wakers[slot];
        flag.woken.store(false, Ordering::Release);
        let Some((_, answer)) = &mut self.slots[slot] else { return };
        if let Poll::Ready(answer) = answer.as_mut().poll(&mut Context::from_waker(waker))
            && let Some((entry, _)) = self.slots[slot].take()
        {
            self.free.push(slot);
            self.answered.push((entry, answer));
        }
    }

    /// All answers that are there; waits until there is one.
    pub(crate) fn poll_answers(&mut self, cx: &mut Context<'_>) -> Poll<Vec<(E, A)>> {
        self.ready.task.register(cx.waker());
        loop {
            let mut woken = std::mem::take(&mut self.woken);
            let ready = &self.ready.woken;
            std::mem::swap(&mut woken, &mut ready.lock().unwrap_or_else(PoisonError::into_inner));
            if woken.is_empty() {
                break;
            }
            woken.drain(..).for_each(|slot| self.poll_slot(slot));
            self.woken = woken;
        }
        match self.answered.is_empty() {
            true => Poll::Pending,
            false => Poll::Ready(std::mem::take(&mut self.answered)),
        }
    }

    /// The entries that are not answered.
    pub(crate) fn entries_mut(&mut self) -> impl Iterator<Item = &mut E> {
        self.slots.iter_mut().flatten().map(|(entry, _)| entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::sync::oneshot;

    async fn answers<E, A>(flight: &mut InFlight<E, A>) -> Vec<(E, A)> {
        poll_fn(|cx| flight.poll_answers(cx)).await
    }

    #[tokio::test]
    async fn everything_that_is_answered_comes_at_once_in_the_order_of_the_answers() {
        let mut flight = InFlight::new();
        let mut senders = Vec::new();
        for n in 0..100 {
            let (sender, receiver) = oneshot::channel();
            senders.push(sender);
            flight.push(n, async move { receiver.await.unwrap_or(-1) });
        }
        for (n, sender) in senders.drain(..50).enumerate().rev() {
            sender.send(n as i32).unwrap();
        }
        let expected: Vec<_> = (0..50).rev().map(|n| (n, n)).collect();
        assert_eq!(answers(&mut flight).await, expected);
        assert_eq!(flight.len(), 50);
        drop(senders);
        assert_eq!(answers(&mut flight).await.len(), 50);
        assert_eq!(flight.len(), 0);
    }

    #[tokio::test]
    async fn an_answer_from_another_thread_wakes_the_task() {
        let mut flight = InFlight::new();
        for round in 0..1_000 {
            let (sender, receiver) = oneshot::channel();
            flight.push(round, receiver);
            let thread = std::thread::spawn(move || sender.send(round));
            assert_eq!(answers(&mut flight).await, [(round, Ok(round))]);
            thread.join().unwrap().unwrap();
        }
        assert_eq!(flight.slots.len(), 1, "slots are used again");
    }

    #[tokio::test]
    async fn what_is_answered_at_once_is_not_lost() {
        let mut flight = InFlight::new();
        flight.push("a", std::future::ready(1));
        assert_eq!(flight.len(), 1);
        assert_eq!(answers(&mut flight).await, [("a", 1)]);
    }
}

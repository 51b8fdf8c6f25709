//! Streams: generations, change sets and events, one after the other, for whoever polls.
//!
//! Invariants: a stream that is dropped leaves no waiter; nothing that happens between two polls is missed.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_core::Stream;

use crate::dio::DioEvent;
use crate::dio::bus::{EventReader, Lagged, NoEvent};
use crate::scenery::table::{ChangeSet, TableScenery};
use crate::sync::{Reaching, Waited};
use crate::{Generation, Scenery};

/// The newest generation of a view: now, and after each move. Several quick moves may be one item.
#[derive(Debug)]
#[must_use = "a stream does nothing unless it is polled"]
pub struct Generations<V> {
    view: V,
    next: Reaching,
}

impl<V: Scenery> Generations<V> {
    pub(super) fn new(view: V) -> Self {
        let next = view.signal().notifier().reached(0);
        Generations { view, next }
    }
}

impl<V: Scenery + Unpin> Stream for Generations<V> {
    type Item = Generation;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Generation>> {
        match ready!(Pin::new(&mut self.next).poll(cx)) {
            Waited::Reached(generation) => {
                self.next = self.view.signal().beyond(Generation(generation));
                Poll::Ready(Some(Generation(generation)))
            }
            Waited::Closed(_) | Waited::TimedOut(_) => Poll::Ready(None),
        }
    }
}

/// What has changed in a table view since the item before.
#[derive(Debug)]
#[must_use = "a stream does nothing unless it is polled"]
pub struct ChangeSets {
    view: TableScenery,
    from: Generation,
    next: Reaching,
}

impl ChangeSets {
    pub(super) fn new(view: TableScenery, from: Generation) -> Self {
        let next = view.signal().beyond(from);
        ChangeSets { view, from, next }
    }
}

impl Stream for ChangeSets {
    type Item = ChangeSet;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ChangeSet>> {
        match ready!(Pin::new(&mut self.next).poll(cx)) {
            Waited::Reached(_) => {
                let changes = self.view.changes_since(self.from);
                self.from = changes.to;
                self.next = self.view.signal().beyond(changes.to);
                Poll::Ready(Some(changes))
            }
            Waited::Closed(_) | Waited::TimedOut(_) => Poll::Ready(None),
        }
    }
}

/// Every event of a Dio from its beginning on, in order; [`Lagged`] in the place of events that were lost to a reader too far
/// behind. It ends when the Dio closes and everything was read.
#[derive(Debug)]
#[must_use = "a stream does nothing unless it is polled"]
pub struct EventStream {
    reader: EventReader<DioEvent>,
    next: Option<Reaching>,
}

impl EventStream {
    pub(super) fn new(reader: EventReader<DioEvent>) -> Self {
        EventStream { reader, next: None }
    }
}

impl Stream for EventStream {
    type Item = Result<DioEvent, Lagged>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some(next) = &mut this.next {
                ready!(Pin::new(next).poll(cx));
                this.next = None;
            }
            match this.reader.recv(Some(Duration::ZERO)) {
                Ok(event) => return Poll::Ready(Some(Ok(event))),
                Err(NoEvent::Lagged(missed)) => return Poll::Ready(Some(Err(Lagged(missed)))),
                Err(NoEvent::Closed) => return Poll::Ready(None),
                Err(NoEvent::Empty) => this.next = Some(this.reader.news()),
            }
        }
    }
}

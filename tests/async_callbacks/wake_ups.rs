//! Wake-ups: none is lost, whatever the future blocks in while it is polled. A thread has one token to sleep on, and what blocks
//! inside of a poll may take the one that was meant for the future.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::thread::scope;

use crossbeam_channel::bounded;
use diorama::prelude::*;
use diorama::vista::{Capabilities, QueryDescriptor, Schema};
use diorama::{AsyncTableShell, Result};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::support::*;

/// Blocks the thread, and calls what it is given while it does.
type Block = Arc<dyn Fn(&mut (dyn FnMut() + Send)) + Send + Sync>;

/// Two branches: the first waits for a signal; the second blocks in its poll, and it is then that the signal comes.
async fn signalled_while_blocked(block: &Block) {
    let (signal, signalled) = oneshot::channel();
    let mut signal = Some(signal);
    let blocks = async {
        let mut give = || {
            if let Some(signal) = signal.take() {
                let _ = signal.send(());
            }
        };
        block(&mut give);
    };
    let (signalled, ()) = tokio::join!(signalled, blocks);
    signalled.unwrap();
}

struct Blocks(Block);

impl AsyncTableShell for Blocks {
    fn name(&self) -> &str {
        "blocks"
    }

    fn source_key(&self) -> String {
        "blocks".into()
    }

    fn schema(&self) -> Arc<Schema> {
        Arc::new(Schema::open("id"))
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::list_only()
    }

    async fn list(&self, _cx: &CallCx, _query: &QueryDescriptor) -> Result<Vec<(String, Record)>> {
        signalled_while_blocked(&self.0).await;
        Ok(Vec::new())
    }
}

/// In a callback and in a source, on a thread of the library and on one of the test.
fn wakes_in_spite_of(times: usize, block: impl Fn(&mut (dyn FnMut() + Send)) + Send + Sync + 'static) {
    in_time(move || {
        let block: Block = Arc::new(block);
        let inside = block.clone();
        let callback = Lens::new()
            .in_memory()
            .on_refresh_async(async move |_dio| {
                signalled_while_blocked(&inside).await;
                Ok(())
            })
            .build()
            .unwrap();
        let dio = callback.make_dio(products()).unwrap();
        let source = Vista::from_async(Blocks(block));
        let over_source = Lens::new().in_memory().build().unwrap().make_dio(source.clone()).unwrap();
        for _ in 0..times {
            dio.refresh().unwrap();
            over_source.refresh().unwrap();
            source.list_values().unwrap();
        }
    });
}

#[test]
fn a_wake_up_that_a_nested_block_on_takes_is_not_lost() {
    wakes_in_spite_of(3, |signal| {
        let (inside, is_inside) = bounded(1);
        scope(|threads| {
            threads.spawn(move || {
                is_inside.recv_timeout(SOON).unwrap();
                signal();
            });
            // Ready once anything has woken the thread: so it is the signal's token that it takes.
            let mut polls = 0;
            pollster::block_on(poll_fn(|_| {
                polls += 1;
                if polls > 1 {
                    return Poll::Ready(());
                }
                inside.send(()).unwrap();
                Poll::Pending
            }));
        });
    });
}

#[test]
fn a_wake_up_that_a_channel_takes_is_not_lost() {
    wakes_in_spite_of(50, |signal| {
        let ((inside, is_inside), (answer, answers)) = (bounded(1), bounded(0));
        scope(|threads| {
            threads.spawn(move || {
                is_inside.recv_timeout(SOON).unwrap();
                signal();
                answer.send(()).unwrap();
            });
            inside.send(()).unwrap();
            answers.recv().unwrap();
        });
    });
}

#[test]
fn a_wake_up_under_a_blocking_call_of_the_library_is_not_lost() {
    let (asks, asked) = bounded::<()>(1);
    let (gives, given) = bounded::<()>(1);
    let other = Lens::new().in_memory().build().unwrap().make_dio(products()).unwrap();
    let view = other.table_scenery().open().unwrap();
    // A hook runs on another thread, while the future's stands in `patched`, or just after.
    let hook = view.on_generation(move |_| {
        let _ = asked.try_recv().map(|()| gives.send(()));
    });
    let number = Mutex::new(0);
    wakes_in_spite_of(20, move |signal| {
        let _ = &hook;
        let seq = {
            let mut number = number.lock();
            *number += 1;
            asks.send(()).unwrap();
            scope(|threads| {
                threads.spawn(|| {
                    given.recv_timeout(SOON).unwrap();
                    signal();
                });
                other.patched("a", price(*number)).unwrap();
            });
            other.seq()
        };
        other.wait_for_seq(seq, Some(SOON)).unwrap();
        other.flush().unwrap();
    });
}

#[test]
fn a_wake_up_from_another_thread_between_two_polls_is_seen() {
    in_time(|| {
        let (ask, asked) = bounded::<oneshot::Sender<u32>>(1);
        let answers = std::thread::Builder::new().spawn(move || {
            for (number, answer) in (0..).zip(asked) {
                let _ = answer.send(number);
            }
        });
        let lens = Lens::new()
            .in_memory()
            .on_refresh_async(async move |_dio| {
                for _ in 0..2_000 {
                    let (answer, answered) = oneshot::channel();
                    let _ = ask.send(answer);
                    answered.await.map_err(|cause| Error::new(ErrorKind::Source, "no answer").with_source(cause))?;
                }
                Ok(())
            })
            .build()
            .unwrap();
        lens.make_dio(products()).unwrap().refresh().unwrap();
        drop(lens);
        answers.unwrap().join().unwrap();
    });
}

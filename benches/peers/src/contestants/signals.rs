//! futures-signals: a `MutableVec` of shared rows, `filter` and `sort_by_cloned`. Each view keeps a vector of its own, to
//! which it applies the diffs of its signal, all in the caller's thread.

use std::error::Error;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_signals::signal::{Signal, SignalExt};
use futures_signals::signal_vec::{MutableVec, SignalVec, SignalVecExt};
use futures_util::task::noop_waker_ref;

use super::{Done, Prepared, Table};
use crate::rows::{Row, SHOWN_BAND, Tops};

struct Signals {
    source: Vec<Row>,
    rows: MutableVec<Arc<Row>>,
    views: Vec<View>,
    values: Option<Values>,
}

struct Values {
    count: Pin<Box<dyn Signal<Item = usize> + Send>>,
    sum: Pin<Box<dyn Signal<Item = i64> + Send>>,
    shown: (usize, i64),
}

impl Values {
    fn take_newest(&mut self) {
        let mut context = Context::from_waker(noop_waker_ref());
        while let Poll::Ready(Some(count)) = self.count.poll_change_unpin(&mut context) {
            self.shown.0 = count;
        }
        while let Poll::Ready(Some(sum)) = self.sum.poll_change_unpin(&mut context) {
            self.shown.1 = sum;
        }
    }
}

impl Signals {
    fn show(&mut self, tops: Tops) -> Result<(), Box<dyn Error>> {
        self.views.iter_mut().for_each(View::apply_diffs);
        if let Some(values) = &mut self.values {
            values.take_newest();
            if values.shown != (self.source.len(), tops.sum) {
                return Err(format!("count and sum are {:?}", values.shown).into());
            }
        }
        Ok(())
    }
}

struct View {
    shown: Vec<Arc<Row>>,
    diffs: Pin<Box<dyn SignalVec<Item = Arc<Row>> + Send>>,
}

pub fn prepare(rows: &[Row], _directory: &Path) -> Prepared {
    let source = rows.to_vec();
    Ok(Box::new(Signals { source, rows: MutableVec::new(), views: Vec::new(), values: None }))
}

impl View {
    fn apply_diffs(&mut self) {
        let mut context = Context::from_waker(noop_waker_ref());
        while let Poll::Ready(Some(diff)) = self.diffs.poll_vec_change_unpin(&mut context) {
            diff.apply_to_vec(&mut self.shown);
        }
    }
}

impl Table for Signals {
    fn seed(&mut self) -> Done<()> {
        self.rows.lock_mut().replace_cloned(self.source.iter().cloned().map(Arc::new).collect());
        Ok(Some(()))
    }

    fn open(&mut self) -> Done<usize> {
        let descending = |one: &Arc<Row>, other: &Arc<Row>| other.amount.cmp(&one.amount);
        let rows = self.rows.signal_vec_cloned();
        let diffs = if let number @ 1.. = self.views.len() {
            let floor = -(number as i64);
            rows.filter(move |row| row.band == SHOWN_BAND && row.amount > floor).sort_by_cloned(descending).boxed()
        } else {
            rows.sort_by_cloned(descending).boxed()
        };
        let mut view = View { shown: Vec::new(), diffs };
        view.apply_diffs();
        let count = view.shown.len();
        self.views.push(view);
        Ok(Some(count))
    }

    fn change(&mut self, row: &Row, tops: Tops) -> Done<()> {
        self.rows.lock_mut().set_cloned(row.index, Arc::new(row.clone()));
        self.show(tops)?;
        Ok(Some(()))
    }

    fn burst(&mut self, rows: &[Row], tops: Tops) -> Done<()> {
        let mut locked = self.rows.lock_mut();
        for row in rows {
            locked.set_cloned(row.index, Arc::new(row.clone()));
        }
        drop(locked);
        self.show(tops)?;
        Ok(Some(()))
    }

    fn window(&mut self, at: usize) -> Done<i64> {
        let shown = &self.views.first().ok_or("no view")?.shown;
        Ok(Some((at..at + 50).filter_map(|index| Some(shown.get(index)?.amount)).sum()))
    }

    fn set_values(&mut self, open: bool) -> Done<()> {
        self.values = None;
        if open {
            let count = self.rows.signal_vec_cloned().len().boxed();
            let sum = self.rows.signal_vec_cloned().map(|row| row.amount).sum().boxed();
            let mut values = Values { count, sum, shown: (0, 0) };
            values.take_newest();
            self.values = Some(values);
        }
        Ok(Some(()))
    }

    fn top(&self, view: usize) -> Option<i64> {
        Some(self.views.get(view)?.shown.first()?.amount)
    }
}

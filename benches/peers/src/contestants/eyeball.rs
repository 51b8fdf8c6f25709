//! eyeball-im with the `filter` and `sort_by` adapters of eyeball-im-util: an `ObservableVector` of shared rows. Each view
//! keeps a vector of its own, to which it applies the diffs of its stream, all in the caller's thread.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use eyeball_im::{ObservableVector, Vector, VectorDiff};
use eyeball_im_util::vector::VectorObserverExt;
use futures_util::Stream;
use futures_util::task::noop_waker_ref;

use super::{Done, Prepared, Table};
use crate::rows::{Row, SHOWN_BAND, Tops};

struct Eyeball {
    source: Vec<Row>,
    rows: ObservableVector<Arc<Row>>,
    views: Vec<View>,
}

struct View {
    shown: Vector<Arc<Row>>,
    diffs: Pin<Box<dyn Stream<Item = VectorDiff<Arc<Row>>>>>,
}

pub fn prepare(rows: &[Row], _directory: &Path) -> Prepared {
    let source = rows.to_vec();
    Ok(Box::new(Eyeball { source, rows: ObservableVector::new(), views: Vec::new() }))
}

impl Eyeball {
    fn apply_diffs(&mut self) {
        let mut context = Context::from_waker(noop_waker_ref());
        for view in &mut self.views {
            while let Poll::Ready(Some(diff)) = view.diffs.as_mut().poll_next(&mut context) {
                diff.apply(&mut view.shown);
            }
        }
    }
}

impl Table for Eyeball {
    fn seed(&mut self) -> Done<()> {
        self.rows.append(self.source.iter().cloned().map(Arc::new).collect());
        Ok(Some(()))
    }

    fn open(&mut self) -> Done<usize> {
        let descending = |one: &Arc<Row>, other: &Arc<Row>| other.amount.cmp(&one.amount);
        let view = if let number @ 1.. = self.views.len() {
            let floor = -(number as i64);
            let filtered = self.rows.subscribe().filter(move |row| row.band == SHOWN_BAND && row.amount > floor);
            let (shown, diffs) = filtered.sort_by(descending);
            View { shown, diffs: Box::pin(diffs) }
        } else {
            let (shown, diffs) = self.rows.subscribe().sort_by(descending);
            View { shown, diffs: Box::pin(diffs) }
        };
        let count = view.shown.len();
        self.views.push(view);
        Ok(Some(count))
    }

    fn change(&mut self, row: &Row, _tops: Tops) -> Done<()> {
        self.rows.set(row.index, Arc::new(row.clone()));
        self.apply_diffs();
        Ok(Some(()))
    }

    fn burst(&mut self, rows: &[Row], _tops: Tops) -> Done<()> {
        let mut transaction = self.rows.transaction();
        for row in rows {
            transaction.set(row.index, Arc::new(row.clone()));
        }
        transaction.commit();
        self.apply_diffs();
        Ok(Some(()))
    }

    fn window(&mut self, at: usize) -> Done<i64> {
        let shown = &self.views.first().ok_or("no view")?.shown;
        Ok(Some((at..at + 50).filter_map(|index| Some(shown.get(index)?.amount)).sum()))
    }

    fn top(&self, view: usize) -> Option<i64> {
        Some(self.views.get(view)?.shown.front()?.amount)
    }
}

//! Reconcile: the rows of the source against the rows of the cache; only what differs goes to the core.
//!
//! Owner: the calling thread makes the difference against a pinned scan; the core takes it as one batch.
//! Invariants: identical rows are not written and make no change set; rows touched since the read began are left alone.

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::dio::DioInner;
use crate::dio::core::{Announce, Apply, FullCopy, RowChange, RowChanges};
use crate::dio::encode::encode_rows;
use crate::dio::event::Cause;
use crate::dio::fresh::IdIndex;
use crate::sync::{Rank, Role, may_wait_for, reply};
use crate::value::{Record, StoredRow};
use crate::{Error, ErrorKind, Result, Seq};

/// Brings the cache to `rows`, read from the source by a read that began at `began`.
pub(crate) fn reconcile(
    dio: &Arc<DioInner>,
    began: Seq,
    rows: Vec<(String, Record)>,
    cause: Cause,
    announce: Announce,
    full_copy: bool,
) -> Result<Seq> {
    may_wait_for(Rank::new(dio.level, Role::Core), "the core of a Dio")?;
    let name = |error: Error| error.with("table", dio.name.to_string());
    let now = dio.clock().wall_ms();
    let total = rows.len() as u64;
    let rows = Arc::new(rows);
    let incoming = encode_rows(dio, &rows, now).map_err(name)?;
    let by_id = IdIndex::new(&incoming).map_err(|id| {
        name(Error::new(ErrorKind::Invalid, "the source gave this id twice; ids must be unique").with("id", id))
    })?;
    let changes = if dio.board.rows() == 0 {
        RowChanges::First(incoming, by_id)
    } else {
        RowChanges::Each(differences(dio, &incoming, &by_id).map_err(name)?)
    };
    dio.store()?.wait_for_room(false).map_err(name)?;
    let (sender, receiver) = reply();
    dio.send_bulk(Apply {
        changes,
        cause,
        announce,
        began: Some(began),
        full_copy: full_copy.then_some(FullCopy { at: now, total: Some(total) }),
        reply: Some(sender),
        at_once: dio.must_apply_at_once(),
    })?;
    let seq = receiver.wait(None)?.map_err(name);
    dio.discard(rows);
    seq
}

fn differences(dio: &Arc<DioInner>, incoming: &[StoredRow], by_id: &IdIndex) -> Result<Vec<RowChange>> {
    let mut seen = vec![false; incoming.len()];
    let mut changes = Vec::new();
    let pin = dio.reader.versions.pin_to_read();
    dio.reader.versions.scan(&pin, &mut |_, stored| {
        match by_id.find(incoming, stored.id()) {
            Some(position) => {
                seen[position] = true;
                let row = &incoming[position];
                if row.status() != stored.status() || !row.same_content(stored) {
                    changes.push(RowChange::Put(row.clone()));
                }
            }
            None => changes.push(RowChange::Delete(Arc::from(stored.id()))),
        }
        ControlFlow::Continue(())
    })?;
    let new = incoming.iter().zip(seen).filter(|(_, seen)| !seen);
    changes.extend(new.map(|(row, _)| RowChange::Put(row.clone())));
    Ok(changes)
}

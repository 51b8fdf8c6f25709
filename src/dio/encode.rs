//! Encode: many records into stored rows, by the calling thread and, if it is free, a build thread.

use std::sync::Arc;

use crate::Result;
use crate::dio::DioInner;
use crate::dio::cache_handle::check_id;
use crate::sync::{Pieces, Rank, Role};
use crate::value::{Record, StoredRow};

/// Rows in a piece.
const PIECE: usize = 4_096;

/// Encodes rows with their checks: an empty or overlong id, or values nested too deep, fail with the id.
pub(crate) fn encode_rows(dio: &DioInner, rows: &Arc<Vec<(String, Record)>>, now: i64) -> Result<Vec<StoredRow>> {
    let count = rows.len().div_ceil(PIECE);
    if count <= 1 {
        return encode_piece(rows, now);
    }
    let of_pieces = rows.clone();
    let pieces = Pieces::new(count, move |number| {
        let from = number * PIECE;
        encode_piece(&of_pieces[from..of_pieces.len().min(from + PIECE)], now)
    });
    let help = pieces.clone();
    // No helper, no harm.
    let _ = dio.lens.build_pool.submit(Rank::new(dio.level, Role::Build), Box::new(move || help.help()));
    let mut encoded = Vec::with_capacity(rows.len());
    pieces.finish()?.into_iter().for_each(|mut piece| encoded.append(&mut piece));
    Ok(encoded)
}

fn encode_piece(rows: &[(String, Record)], now: i64) -> Result<Vec<StoredRow>> {
    let mut scratch = Vec::new();
    rows.iter()
        .map(|(id, record)| {
            check_id(id)?;
            record.check_depth().map_err(|error| error.with("id", id.clone()))?;
            Ok(StoredRow::encode_with(&mut scratch, id, record, now))
        })
        .collect()
}

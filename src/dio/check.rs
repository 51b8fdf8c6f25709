//! Check: what is refused of a write before anything is done with it.

use crate::dio::DioInner;
use crate::dio::cache_handle::check_id;
use crate::vista::WriteOp;
use crate::{Error, ErrorKind, Result};

impl DioInner {
    /// Whether the capabilities and the schema allow the write.
    pub(crate) fn check_write(&self, op: &WriteOp) -> Result<()> {
        let able = self.write_capabilities();
        let allowed = match op {
            WriteOp::Insert { .. } => able.insert,
            WriteOp::Replace { .. } => able.replace,
            WriteOp::Upsert { .. } => able.upsert,
            WriteOp::Patch { .. } => able.patch,
            WriteOp::Delete { .. } => able.delete,
            WriteOp::DeleteAll => able.delete_all,
        };
        if !allowed {
            return Err(Error::new(ErrorKind::Unsupported, format!("this source does not support `{}`", op.verb())));
        }
        if let Some(id) = op.id() {
            check_id(id)?;
        }
        let Some(record) = op.record() else { return Ok(()) };
        record.check_depth()?;
        self.schema.check_record(record, matches!(op, WriteOp::Insert { .. }))
    }
}

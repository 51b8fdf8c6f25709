//! Capabilities: what a source can do, told honestly before anyone asks it to.

/// What a source can do. What is `false` here answers [`Unsupported`](crate::ErrorKind::Unsupported) when called.
///
/// ```
/// use diorama::vista::Capabilities;
///
/// let log = Capabilities { insert: true, ..Capabilities::read_only() };
/// assert!(log.insert && !log.delete);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// `get`: one row by id without listing the rest.
    pub get: bool,
    /// `count`: a number of rows without listing them.
    pub count: bool,
    /// `list` takes windows (offset and limit).
    pub window: bool,
    /// `page`: the rows of a query piece by piece, each piece from where the last one ended.
    pub pages: bool,
    /// New rows.
    pub insert: bool,
    /// A whole row in the place of one that exists.
    pub replace: bool,
    /// A whole row, whether it exists or not.
    pub upsert: bool,
    /// Some fields of a row that exists.
    pub patch: bool,
    /// Deleting one row.
    pub delete: bool,
    /// Deleting all rows.
    pub delete_all: bool,
    /// Several writes in one call, all or none.
    pub batch: bool,
    /// `push_down` may take sorts with another collation than code point ([`Collation`](crate::vista::Collation)). Without
    /// it, such a sort is never offered to the source.
    pub collations: bool,
    /// A stream of the changes made by others.
    pub changes: bool,
    /// A write repeated with the same idempotency key is done once and gets its first answer again.
    pub idempotent_writes: bool,
    /// A write of a row that is not [as the writer knew it](crate::vista::CallCx::before) any more is refused with `Conflict`.
    pub compares: bool,
}

impl Capabilities {
    /// Nothing beyond `list`.
    pub const fn list_only() -> Self {
        Capabilities {
            get: false,
            count: false,
            window: false,
            pages: false,
            insert: false,
            replace: false,
            upsert: false,
            patch: false,
            delete: false,
            delete_all: false,
            batch: false,
            collations: false,
            changes: false,
            idempotent_writes: false,
            compares: false,
        }
    }

    /// The reads `list`, `get` and `count`, with windows; no pages, no writes.
    pub const fn read_only() -> Self {
        Capabilities { get: true, count: true, window: true, ..Self::list_only() }
    }

    /// What [`read_only`](Self::read_only) has, and all writes row by row.
    pub const fn read_write() -> Self {
        Capabilities {
            insert: true,
            replace: true,
            upsert: true,
            patch: true,
            delete: true,
            delete_all: true,
            ..Self::read_only()
        }
    }
}

//! Vista: one data source behind a narrow contract, with a narrowing of its own.
//!
//! Flow: a query → what the source takes of it ([`TableShell::push_down`]) → rows → the rest, evaluated here.
//! Not here: caching, threads, views.

mod call;
mod capability;
mod change;
pub mod contract;
mod handle;
mod page;
pub(crate) mod query;
mod schema;
mod shell;
mod write;

pub use call::{CallCx, CancelToken, CancelWatch};
pub use capability::Capabilities;
pub use change::{ChangeEvent, ChangeStream};
pub use handle::Vista;
pub(crate) use page::Place;
pub use page::{Page, PageCursor, Total};
pub(crate) use query::Guard;
pub use query::{Col, Collation, Condition, Filter, QueryDescriptor, SortBy, SortDir, SortKeyer, Window, col};
#[cfg(feature = "sqlite")]
pub(crate) use query::{LikePattern, Needle};
pub use schema::{Column, ColumnType, Schema};
pub use shell::{PushDown, TableShell};
pub use write::{WriteOp, Written};

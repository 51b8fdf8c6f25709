//! Sources: ready-made Vistas, those that need a crate behind one feature each.

#[cfg(feature = "csv")]
mod csv;
pub mod memory;
#[cfg(feature = "sqlite")]
mod sqlite;

#[cfg(feature = "csv")]
pub use csv::{CsvVista, CsvVistaBuilder};
pub use memory::MemoryVista;
#[cfg(feature = "sqlite")]
pub use sqlite::{SqliteVista, SqliteVistaBuilder};

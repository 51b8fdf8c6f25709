//! Import: many rows into a source, stepped from async programs.
//!
//! Flow: the import goes to a thread of the source-call pool for a step, and comes back with what the step said.
//! Invariants: a step that has begun goes on without its future; the next call of `step` is for the same one.

use super::call::{Job, is_made_here};
use super::dio::AsyncDio;
use super::wait::any;
use crate::import::Stopped;
use crate::{Error, ErrorKind, Import, ImportProgress, ImportState, IntoImportRow, Result};

/// An import, and what its step said.
type Stepped<I> = (Import<I>, Result<Option<ImportProgress>, Stopped>);

enum Place<I> {
    Here(Import<I>),
    /// On a thread, for a step.
    Away(Job<Stepped<I>>),
    /// Lost with a step: its rows panicked, or the Lens was closed before it began.
    Gone(Error),
}

/// Many rows on their way to a source: an [`Import`] whose steps are futures. The rows are taken from their iterator on a
/// thread of the Lens.
pub struct AsyncImport<I> {
    dio: AsyncDio,
    place: Place<I>,
    state: ImportState,
    progress: ImportProgress,
}

impl<I> std::fmt::Debug for AsyncImport<I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AsyncImport").field("dio", &self.dio).field("done", &self.state.done()).finish()
    }
}

impl AsyncDio {
    /// Many rows for the source, which are taken from an iterator as they are written: see
    /// [`Dio::import`](crate::Dio::import).
    ///
    /// ```
    /// use diorama::AsyncLens;
    /// use diorama::prelude::*;
    ///
    /// # fn main() -> diorama::Result<()> {
    /// # pollster::block_on(async {
    /// let lens = AsyncLens::build(Lens::new().in_memory()).await?;
    /// let dio = lens.make_dio(MemoryVista::new("products", "id")).await?;
    /// let mut import = dio.import((0..2_500).map(|number| (format!("p{number}"), record! { "price" => number })));
    /// while let Some(progress) = import.step().await? {
    ///     println!("{} of {:?} rows", progress.done, progress.total);
    /// }
    /// assert_eq!((import.state().done(), dio.status().rows), (2_500, 2_500));
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    pub fn import<R>(&self, rows: R) -> AsyncImport<R::IntoIter>
    where
        R: IntoIterator,
        R::Item: IntoImportRow,
    {
        let import = crate::Dio::import(self, rows);
        let (state, progress) = (import.state().clone(), import.progress());
        AsyncImport { dio: self.clone(), place: Place::Here(import), state, progress }
    }
}

impl<I> AsyncImport<I> {
    /// How far it has come, as of the last step that was awaited: see [`Import::state`].
    pub fn state(&self) -> &ImportState {
        &self.state
    }

    /// How far it has come, as of the last step that was awaited.
    pub fn progress(&self) -> ImportProgress {
        self.progress
    }
}

impl<I> AsyncImport<I>
where
    I: Iterator + Send + 'static,
    I::Item: IntoImportRow,
{
    /// Goes on where an earlier import of the same rows stood: see [`Import::resume`]. Before the first step.
    #[must_use]
    pub fn resume(self, state: ImportState) -> Self {
        self.with(|import| import.resume(state))
    }

    /// How many rows a chunk has at the most: see [`Import::chunk_rows`]. Before the first step.
    #[must_use]
    pub fn chunk_rows(self, rows: usize) -> Self {
        self.with(|import| import.chunk_rows(rows))
    }

    fn with(mut self, change: impl FnOnce(Import<I>) -> Import<I>) -> Self {
        self.place = match self.place {
            Place::Here(import) => {
                let import = change(import);
                (self.state, self.progress) = (import.state().clone(), import.progress());
                Place::Here(import)
            }
            begun => begun,
        };
        self
    }

    /// Writes the next chunk; ready when the source has it. `None` once all rows are done. Waits for room in a full queue for
    /// as long as it is awaited. Dropped, the step goes on to its end, and the next call tells how that was.
    ///
    /// # Errors
    /// As [`Import::step`].
    pub async fn step(&mut self) -> Result<Option<ImportProgress>> {
        loop {
            let is_fresh = matches!(self.place, Place::Here(_));
            let signs = crate::Dio::inner(&self.dio).signs_of_room();
            let (import, stepped) = self.stepped().await?;
            (self.state, self.progress) = (import.state().clone(), import.progress());
            self.place = Place::Here(import);
            match stepped {
                // What was freed before these signs were taken is not among them.
                Err(Stopped::NoRoom(error)) if !is_made_here() => {
                    if is_fresh {
                        any(signs.of(&error)).await;
                    }
                }
                Err(Stopped::NoRoom(error) | Stopped::Failed(error)) => return Err(error),
                Ok(progress) => return Ok(progress),
            }
        }
    }

    /// Writes all that is left.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub async fn run(&mut self) -> Result<ImportProgress> {
        while self.step().await?.is_some() {}
        Ok(self.progress)
    }

    /// The import, back from the step that is under way or is begun now.
    async fn stepped(&mut self) -> Result<Stepped<I>> {
        self.place = match std::mem::replace(&mut self.place, Place::Gone(closed())) {
            Place::Here(mut import) => {
                let step = move || {
                    let stepped = import.attempt();
                    Ok((import, stepped))
                };
                if is_made_here() {
                    return step();
                }
                Place::Away(Job::begin(&crate::Dio::inner(&self.dio).lens.source_call_pool, step)?)
            }
            place => place,
        };
        let stepped = match &mut self.place {
            Place::Away(job) => job.await,
            Place::Gone(error) => Err(error.clone()),
            Place::Here(_) => Err(closed()),
        };
        if let Err(error) = &stepped {
            self.place = Place::Gone(error.clone());
        }
        stepped
    }
}

fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the Lens is closed")
}

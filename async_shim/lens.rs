//! Lens: the policy, built and used from async programs.

use std::ops::Deref;
use std::time::Duration;

use super::call::{call, call_on_own_thread};
use super::dio::AsyncDio;
use crate::dio::CloseReport;
use crate::lens::LensBuilder;
use crate::sync::{Rank, may_wait_for};
use crate::vista::Vista;
use crate::{Lens, Result};

/// The policy under which sources are cached, refreshed and written to: a [`Lens`] whose waits are futures. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AsyncLens(Lens);

impl From<Lens> for AsyncLens {
    fn from(lens: Lens) -> Self {
        AsyncLens(lens)
    }
}

impl Deref for AsyncLens {
    type Target = Lens;

    fn deref(&self) -> &Lens {
        &self.0
    }
}

impl AsyncLens {
    /// Checks the settings and opens the cache.
    ///
    /// # Errors
    /// As [`LensBuilder::build`]; `Unavailable` when the system gives no thread.
    pub async fn build(settings: LensBuilder) -> Result<AsyncLens> {
        call_on_own_thread("lens:open".to_owned(), move || settings.build()).await.map(AsyncLens)
    }

    /// Runs a source through this Lens. Waits for the first copy when the cache is incomplete.
    ///
    /// # Errors
    /// As [`Lens::make_dio`].
    pub async fn make_dio(&self, source: impl Into<Vista>) -> Result<AsyncDio> {
        let (lens, vista) = (self.0.clone(), source.into());
        let begin = move || lens.begin_dio(vista).map(|(dio, first_copy)| (AsyncDio::from(dio), first_copy));
        let (dio, first_copy) = call(&self.0.inner().source_call_pool, begin).await?;
        if let Some(first_copy) = first_copy {
            first_copy.ended().reached(1).await;
            first_copy.wait()?;
        }
        Ok(dio)
    }

    /// Wipes everything that this Lens's cache keeps of a table.
    ///
    /// # Errors
    /// As [`Lens::forget`].
    pub async fn forget(&self, table: impl Into<String>) -> Result<()> {
        let (lens, table) = (self.0.clone(), table.into());
        call(&self.0.inner().source_call_pool, move || lens.forget(&table)).await
    }

    /// Closes every Dio of this Lens, ends its threads and lets go of the cache, within the timeout. Dropped, the closing goes
    /// on.
    ///
    /// # Errors
    /// As [`Lens::close`].
    pub async fn close(&self, timeout: Duration) -> Result<CloseReport> {
        may_wait_for(Rank::above_all(), "the closing of a Lens")?;
        let lens = self.0.clone();
        let name = format!("{}:close", lens.name());
        call_on_own_thread(name, move || Ok(lens.close_within(timeout))).await
    }
}

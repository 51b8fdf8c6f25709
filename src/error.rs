//! Error: the one error type of the library: a kind that says what the caller can do, and the story of what happened.
//!
//! Invariants: cheap to clone, `Send + Sync`; the cause is never lost.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// What a caller can do about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No such row, column or table. Nothing to retry.
    NotFound,
    /// Someone else changed it first. Read again, then decide.
    Conflict,
    /// This source or cache cannot do that at all.
    Unsupported,
    /// The input is wrong: mend it and call again.
    Invalid,
    /// The source cannot be reached now. Trying later can help.
    Unavailable,
    /// The source understood and refused.
    Rejected,
    /// A bounded queue is full. Try later or wait.
    Full,
    /// The time given was over first. What was waited for goes on.
    Timeout,
    /// The Dio, Lens or view is closed.
    Closed,
    /// The snapshot outlived its budget; take a new one.
    Expired,
    /// Waiting here could never end: the wait is for a thread that may be waiting for this one.
    WouldDeadlock,
    /// Stored or received data is damaged.
    Corrupt,
    /// The data source failed.
    Source,
    /// The local cache failed.
    Cache,
    /// User code (a callback, a source, a hook) panicked.
    Panicked,
    /// The call was cancelled before it was done.
    Cancelled,
}

impl ErrorKind {
    fn as_str(self) -> &'static str {
        match self {
            ErrorKind::NotFound => "not found",
            ErrorKind::Conflict => "conflict",
            ErrorKind::Unsupported => "unsupported",
            ErrorKind::Invalid => "invalid",
            ErrorKind::Unavailable => "unavailable",
            ErrorKind::Rejected => "rejected",
            ErrorKind::Full => "full",
            ErrorKind::Timeout => "timeout",
            ErrorKind::Closed => "closed",
            ErrorKind::Expired => "expired",
            ErrorKind::WouldDeadlock => "would deadlock",
            ErrorKind::Corrupt => "corrupt",
            ErrorKind::Source => "source error",
            ErrorKind::Cache => "cache error",
            ErrorKind::Panicked => "panicked",
            ErrorKind::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What went wrong: a [kind](ErrorKind), a message, the place (table, id, file …) and the cause.
///
/// Cheap to clone: it is one shared pointer.
///
/// ```
/// use diorama::{Error, ErrorKind};
///
/// let error = Error::new(ErrorKind::NotFound, "no such row").with("table", "airports").with("id", "00M");
/// assert_eq!(error.kind(), ErrorKind::NotFound);
/// assert_eq!(error.context("id"), Some("00M"));
/// assert_eq!(error.to_string(), "not found: no such row (table: airports, id: 00M)");
/// ```
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    message: String,
    context: Vec<(&'static str, String)>,
    fields: Vec<(String, String)>,
    source: Option<Arc<dyn StdError + Send + Sync + 'static>>,
    retry_after: Option<Duration>,
}

/// The library's result type.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A new error of `kind` with a message for people.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let (context, fields) = (Vec::new(), Vec::new());
        let inner = Inner { kind, message: message.into(), context, fields, source: None, retry_after: None };
        Error(Arc::new(inner))
    }

    /// Adds where it happened: `with("table", "airports")`. The first value given for a name stays.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        if self.context(name).is_none() {
            Arc::make_mut(&mut self.0).context.push((name, value.into()));
        }
        self
    }

    /// Says what is wrong with one field of the row: for a source that refuses a write, so that a form can show each message
    /// beside its field ([`Draft::errors`](crate::Draft::errors)). May be called for several fields, and more than once for
    /// one; the order is kept.
    ///
    /// ```
    /// use diorama::{Error, ErrorKind};
    ///
    /// let error = Error::new(ErrorKind::Rejected, "the shop refused the product")
    ///     .with_field("price", "must be above zero")
    ///     .with_field("name", "is taken");
    /// assert_eq!(error.to_string(), "rejected: the shop refused the product [price: must be above zero; name: is taken]");
    ///
    /// let wrapped = Error::new(ErrorKind::Source, "the second row of three failed").with_source(error);
    /// let fields: Vec<_> = wrapped.fields().collect();
    /// assert_eq!(fields, [("price", "must be above zero"), ("name", "is taken")]);
    /// ```
    #[must_use]
    pub fn with_field(mut self, name: impl Into<String>, message: impl Into<String>) -> Self {
        Arc::make_mut(&mut self.0).fields.push((name.into(), message.into()));
        self
    }

    /// Adds the cause, shown by [`std::error::Error::source`].
    #[must_use]
    pub fn with_source(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        Arc::make_mut(&mut self.0).source = Some(Arc::new(source));
        self
    }

    /// Adds how long the source asks to be left alone, counted from now: what a driver reads from a `Retry-After` header
    /// or its like. The last one given stays; the text of the error doesn't show it.
    ///
    /// A write that fails for now (`Unavailable`, `Timeout`, `Source` …) is tried again after this time, in the place of
    /// the delay that its [`DeliveryPolicy`](crate::DeliveryPolicy) would choose. It has no effect on a write that is over
    /// by its error, as by `Rejected`.
    ///
    /// ```
    /// use std::time::Duration;
    /// use diorama::{Error, ErrorKind};
    ///
    /// let busy = Error::new(ErrorKind::Unavailable, "429 Too Many Requests").with_retry_after(Duration::from_secs(30));
    /// assert_eq!(busy.retry_after(), Some(Duration::from_secs(30)));
    /// ```
    #[must_use]
    pub fn with_retry_after(mut self, retry_after: Duration) -> Self {
        Arc::make_mut(&mut self.0).retry_after = Some(retry_after);
        self
    }

    /// How long the source asked to be left alone from when the error arose, if it did.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The message without its kind, context and cause.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The context value of this name: `"table"`, `"id"`, `"path"`, `"setting"` …
    pub fn context(&self, name: &str) -> Option<&str> {
        self.0.context.iter().find(|(n, _)| *n == name).map(|(_, value)| value.as_str())
    }

    /// The fields that are wrong, each with what is wrong with it, in the order they were [named](Self::with_field): this
    /// error's own, then those of the errors that caused it.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        let causes = std::iter::successors(StdError::source(self), |cause| (*cause).source());
        let errors = std::iter::once(self).chain(causes.filter_map(|cause| cause.downcast_ref::<Error>()));
        errors.flat_map(|error| error.0.fields.iter().map(|(name, message)| (name.as_str(), message.as_str())))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.kind, self.0.message)?;
        for (position, (name, value)) in self.0.context.iter().enumerate() {
            let lead = if position == 0 { " (" } else { ", " };
            write!(f, "{lead}{name}: {value}")?;
        }
        if !self.0.context.is_empty() {
            f.write_str(")")?;
        }
        for (position, (name, message)) in self.0.fields.iter().enumerate() {
            let lead = if position == 0 { " [" } else { "; " };
            write!(f, "{lead}{name}: {message}")?;
        }
        if !self.0.fields.is_empty() {
            f.write_str("]")?;
        }
        if let Some(source) = &self.0.source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_ref().map(|source| &**source as &(dyn StdError + 'static))
    }
}

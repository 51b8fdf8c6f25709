//! Numbers: the three counters the library hands out, each its own type so that they can't be mixed up.

use std::fmt;

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u64);

        impl $name {
            /// The next number.
            #[must_use]
            pub fn next(self) -> Self {
                $name(self.0 + 1)
            }
        }

        impl From<u64> for $name {
            fn from(value: u64) -> Self {
                $name(value)
            }
        }

        impl From<$name> for u64 {
            fn from(value: $name) -> Self {
                value.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

counter! {
    /// A scenery's counter: it moves, by one, exactly when what the scenery shows moves.
    Generation
}

counter! {
    /// A Dio's number of the last applied batch. Snapshots, events and tickets carry it; two snapshots of one Dio agree
    /// when their `Seq`s do.
    Seq
}

counter! {
    /// The number of a write among those of its table, in the order in which they were taken.
    WriteNumber
}

counter! {
    /// The number of a row in its cache table, given in the order of arrival and not reused while anything can name it.
    RowNo
}

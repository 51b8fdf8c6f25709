//! Sceneries: the reactive views on a Dio, and what they are made of.

pub(crate) mod accumulator;
pub(crate) mod anchor;
pub(crate) mod changes;
pub(crate) mod custom;
pub(crate) mod cut;
pub(crate) mod exact_sum;
pub(crate) mod index;
pub(crate) mod mirror;
pub(crate) mod multiset;
pub(crate) mod ranges;
pub(crate) mod record;
pub(crate) mod selection;
pub(crate) mod signal;
pub(crate) mod snapshot;
pub(crate) mod table;
pub(crate) mod value;
pub(crate) mod value_builder;
pub(crate) mod view_query;

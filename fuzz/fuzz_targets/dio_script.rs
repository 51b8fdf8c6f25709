//! Script: the operations of the model test, made from a fuzzer's bytes.

use arbitrary::{Result, Unstructured};

use crate::ops::{
    By, C, COLUMNS, Cut, Event, FLOATS, Fields, INTS, Id, Kind, Op, PATHS, PATTERNS, Query, SEARCHES, Script, TEXTS, V,
};

/// The most operations of one script.
const LONGEST: usize = 60;

const KINDS: [Kind; 8] =
    [Kind::Count, Kind::Sum, Kind::Avg, Kind::Min, Kind::Max, Kind::Distinct, Kind::Custom, Kind::Computed];

/// As many operations as the bytes give.
pub fn script(u: &mut Unstructured<'_>) -> Script {
    let mut ops = Vec::new();
    while ops.len() < LONGEST && !u.is_empty() {
        // Operations of which the bytes end too soon are left out.
        let Ok(op) = op(u) else { break };
        ops.push(op);
    }
    Script(ops)
}

fn op(u: &mut Unstructured<'_>) -> Result<Op> {
    Ok(match u.int_in_range(0..=63_u8)? {
        0..=5 => Op::Insert(id(u)?, fields(u)?),
        6..=8 => Op::Remove(id(u)?),
        9..=10 => Op::InsertMany(rows(u)?),
        11 => Op::Clear,
        12..=14 => Op::Patched(id(u)?, fields(u)?),
        15 => Op::PutAgain(id(u)?),
        16 => Op::WriteInsert(id(u)?, fields(u)?),
        17 => Op::WriteReplace(id(u)?, fields(u)?),
        18..=19 => Op::WriteUpsert(id(u)?, fields(u)?),
        20..=21 => Op::WritePatch(id(u)?, fields(u)?),
        22 => Op::WriteDelete(id(u)?),
        23 => Op::WriteDeleteAll,
        24 => Op::WriteFails(id(u)?, fields(u)?),
        25..=27 => Op::OutsideUpsert(id(u)?, fields(u)?),
        28 => Op::OutsideDelete(id(u)?),
        29..=30 => Op::Refresh,
        31 => Op::RefreshOffline,
        32..=33 => Op::Reconcile(rows(u)?),
        34 => Op::ReconcileWithout(several(u, 6, id)?),
        35 => Op::Told(id(u)?, fields(u)?),
        36 => Op::Event(id(u)?, *u.choose(&[Event::InsertedWithout, Event::UpdatedWithout, Event::Deleted])?),
        37 => Op::Invalidate(id(u)?),
        38 => Op::InvalidateAll,
        39..=43 => Op::Open(query(u)?),
        44..=46 => Op::OpenValue(*u.choose(&KINDS)?, path(u)?, query(u)?),
        47 => Op::OpenRecord(id(u)?),
        48 => Op::Drop(u.arbitrary()?),
        49 => Op::SetSort(u.arbitrary()?, sort(u)?),
        50 => Op::SetCut(u.arbitrary()?, cut(u)?),
        51 => Op::SetSearch(u.arbitrary()?, search(u)?),
        52..=53 => Op::SetConditions(u.arbitrary()?, several(u, 3, |u| condition(u, 2))?),
        54..=57 => Op::Snapshot(u.arbitrary()?),
        58 => Op::DropSnapshot(u.arbitrary()?),
        59 => Op::Facade(query(u)?, u.int_in_range(0..=5)?, u.int_in_range(0..=7)?),
        60..=61 => Op::Flush,
        _ => Op::Restart,
    })
}

fn id(u: &mut Unstructured<'_>) -> Result<Id> {
    u.int_in_range(0..=13).map(Id)
}

/// Fewer than `below`.
fn several<T>(
    u: &mut Unstructured<'_>,
    below: usize,
    mut one: impl FnMut(&mut Unstructured<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    let count = u.int_in_range(0..=below as u8 - 1)?;
    (0..count).map(|_| one(u)).collect()
}

fn scalar(u: &mut Unstructured<'_>) -> Result<V> {
    Ok(match u.int_in_range(0..=7_u8)? {
        0 => V::Null,
        1 => V::Bool(u.arbitrary()?),
        2..=4 => V::Int(*u.choose(&INTS)?),
        5 => V::Float(*u.choose(&FLOATS)?),
        _ => V::Text((*u.choose(&TEXTS)?).to_owned()),
    })
}

fn value(u: &mut Unstructured<'_>) -> Result<V> {
    let map = |name: &str, value: V| V::Map(vec![(name.to_owned(), value)]);
    Ok(match u.int_in_range(0..=15_u8)? {
        0 => map("x", scalar(u)?),
        1 => map("x", map("y", scalar(u)?)),
        2 => V::Map(vec![("z".to_owned(), scalar(u)?), ("x".to_owned(), scalar(u)?)]),
        3 => V::List(several(u, 3, scalar)?),
        _ => scalar(u)?,
    })
}

fn fields(u: &mut Unstructured<'_>) -> Result<Fields> {
    let named: u8 = u.arbitrary()?;
    let mut fields = Vec::new();
    for (place, name) in COLUMNS.into_iter().enumerate() {
        if named >> place & 1 == 1 {
            fields.push((name, if name == "m" { value(u)? } else { scalar(u)? }));
        }
    }
    Ok(Fields(fields))
}

fn rows(u: &mut Unstructured<'_>) -> Result<Vec<(Id, Fields)>> {
    several(u, 10, |u| Ok((id(u)?, fields(u)?)))
}

fn path(u: &mut Unstructured<'_>) -> Result<&'static str> {
    u.choose(&PATHS).copied()
}

fn condition(u: &mut Unstructured<'_>, deeper: u32) -> Result<C> {
    let kinds = if deeper == 0 { 9 } else { 12 };
    Ok(match u.int_in_range(0..=kinds)? {
        0 => C::Eq(path(u)?, value(u)?),
        1 => C::Ne(path(u)?, value(u)?),
        2 => C::Lt(path(u)?, scalar(u)?),
        3 => C::Le(path(u)?, value(u)?),
        4 => C::Gt(path(u)?, scalar(u)?),
        5 => C::Ge(path(u)?, value(u)?),
        6 => C::In(path(u)?, several(u, 4, value)?),
        7 => C::NotIn(path(u)?, several(u, 4, value)?),
        8 => C::Like(path(u)?, u.choose(&PATTERNS)?),
        9 => C::IsNull(path(u)?),
        10 => C::And(several(u, 3, |u| condition(u, deeper - 1))?),
        11 => C::Or(several(u, 3, |u| condition(u, deeper - 1))?),
        _ => C::Not(Box::new(condition(u, deeper - 1)?)),
    })
}

fn search(u: &mut Unstructured<'_>) -> Result<Option<&'static str>> {
    if u.ratio(1, 3)? { u.choose(&SEARCHES).map(|text| Some(*text)) } else { Ok(None) }
}

fn sort(u: &mut Unstructured<'_>) -> Result<Vec<By>> {
    several(u, 3, |u| {
        let (path, bits) = (path(u)?, u.arbitrary::<u8>()?);
        Ok((path, bits & 1 == 1, bits & 2 == 2))
    })
}

fn query(u: &mut Unstructured<'_>) -> Result<Query> {
    Ok(Query { conditions: several(u, 3, |u| condition(u, 2))?, search: search(u)?, sort: sort(u)?, cut: cut(u)? })
}

fn cut(u: &mut Unstructured<'_>) -> Result<Cut> {
    let rows = u.int_in_range(0..=4)?;
    Ok(*u.choose(&[Cut::Nothing, Cut::First(rows), Cut::Last(rows)])?)
}

//! Datetime: text under tag 0 (RFC 3339) as an instant that compares and encodes.
//!
//! The key: 1, the seconds since the Unix epoch (eight bytes), the digits of the fraction without trailing zeros, 0.
//! Text that is no RFC 3339 datetime comes after all that is: 2, the text escaped, 0.
//! Invariants: the fraction has any number of digits and is compared exactly; a leap second is the first second of the
//! next minute.

use std::borrow::Cow;
use std::cmp::Ordering;

const PARSED: u8 = 1;
const UNPARSED: u8 = 2;

pub(super) enum Datetime<'a> {
    Instant { seconds: i64, fraction: Cow<'a, str> },
    Unparsed(Cow<'a, str>),
}

impl<'a> Datetime<'a> {
    pub(super) fn of(text: Cow<'a, str>) -> Self {
        match parse(&text) {
            None => Datetime::Unparsed(text),
            Some((seconds, fraction)) => {
                let fraction = match text {
                    Cow::Borrowed(text) => Cow::Borrowed(&text[fraction]),
                    Cow::Owned(text) => Cow::Owned(text[fraction].to_owned()),
                };
                Datetime::Instant { seconds, fraction }
            }
        }
    }

    pub(super) fn compare(&self, other: &Self) -> Ordering {
        use Datetime::{Instant, Unparsed};
        match (self, other) {
            (Instant { seconds: a, fraction: x }, Instant { seconds: b, fraction: y }) => {
                a.cmp(b).then_with(|| x.cmp(y))
            }
            (Instant { .. }, Unparsed(_)) => Ordering::Less,
            (Unparsed(_), Instant { .. }) => Ordering::Greater,
            (Unparsed(a), Unparsed(b)) => a.cmp(b),
        }
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Datetime::Instant { seconds, fraction } => {
                out.push(PARSED);
                // Turning the sign bit over puts negative numbers first.
                out.extend_from_slice(&(*seconds ^ i64::MIN).to_be_bytes());
                out.extend_from_slice(fraction.as_bytes());
            }
            Datetime::Unparsed(text) => {
                out.push(UNPARSED);
                super::encode_bytes(text.as_bytes(), out);
            }
        }
        out.push(super::END);
    }
}

/// Seconds since the Unix epoch, and where in the text the digits of the fraction are, without trailing zeros.
fn parse(text: &str) -> Option<(i64, std::ops::Range<usize>)> {
    let bytes = text.as_bytes();
    let (date_time, rest) = bytes.split_first_chunk::<19>()?;
    let separators = [(4, b"--"), (7, b"--"), (10, b"Tt"), (13, b"::"), (16, b"::")];
    if separators.iter().any(|(at, accepted)| !accepted.contains(&date_time[*at])) {
        return None;
    }
    let year = digits(&date_time[0..4])?;
    let month = digits(&date_time[5..7]).filter(|month| (1..=12).contains(month))?;
    let day = digits(&date_time[8..10]).filter(|day| (1..=days_in_month(year, month)).contains(day))?;
    let hour = digits(&date_time[11..13]).filter(|hour| *hour <= 23)?;
    let minute = digits(&date_time[14..16]).filter(|minute| *minute <= 59)?;
    let second = digits(&date_time[17..19]).filter(|second| *second <= 60)?;

    let (fraction, zone) = match rest.split_first() {
        Some((b'.', after)) => {
            let count = after.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let zeros = after[..count].iter().rev().take_while(|byte| **byte == b'0').count();
            if count == 0 {
                return None;
            }
            (20..20 + count - zeros, &after[count..])
        }
        _ => (19..19, rest),
    };
    let offset_minutes = match zone {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let hours = digits(&[*h1, *h2]).filter(|hours| *hours <= 23)?;
            let minutes = digits(&[*m1, *m2]).filter(|minutes| *minutes <= 59)?;
            let offset = hours * 60 + minutes;
            if *sign == b'-' { -offset } else { offset }
        }
        _ => return None,
    };
    let minutes = (days_since_epoch(year, month, day) * 24 + hour) * 60 + minute - offset_minutes;
    Some((minutes * 60 + second, fraction))
}

fn digits(bytes: &[u8]) -> Option<i64> {
    bytes.iter().try_fold(0, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + i64::from(byte - b'0')))
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 in the Gregorian calendar, carried back to the year 0.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    // Leap days that lie before the year: those of the years 0 to year − 1.
    let leap_days = (year + 3) / 4 - (year + 99) / 100 + (year + 399) / 400;
    let before_month: i64 = (1..month).map(|month| days_in_month(year, month)).sum();
    const YEAR_0_TO_1970: i64 = 719_528;
    year * 365 + leap_days + before_month + day - 1 - YEAR_0_TO_1970
}

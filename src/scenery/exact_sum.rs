//! Exact sum: a sum of integers and floats that can be added to and taken from without any error, and its mean.
//!
//! Invariants: the result depends only on which numbers are in, never on the order or on what came and went
//! (`any_history_equals_a_recompute`); it is the exact total, rounded once (`floats_round_like_the_exact_total`), and the
//! mean is the exact quotient, rounded once (`means_round_like_the_exact_quotient`).

/// Bits of a limb that count; the rest of its `i64` is room for carries.
const LIMB_BITS: usize = 32;
/// The lowest bit is worth 2^-1074, the least positive float. 66 limbs reach past 2^1024, the others are room for sums.
const LIMBS: usize = 70;
/// The bit worth 1.
const UNIT_BIT: usize = 1074;
/// After so many additions of less than 2^32 a limb could come near the end of its `i64`.
const CARRY_EVERY: u32 = 1 << 29;

/// What a sum comes to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum SumResult {
    /// Only integers are in, and the total fits.
    Int(i128),
    /// A float is in, or the integers' total doesn't fit an `i128`: the float nearest to the exact total, ties to even.
    Float(f64),
}

/// A multiset of integers and floats, of which it knows the exact total. Taking out what was never put in leaves it
/// meaningless, but not unsafe.
#[derive(Debug, Clone, Default)]
pub(crate) struct ExactSum {
    integers: Wide,
    integer_count: i64,
    /// The finite floats; there from the first one on.
    finite: Option<Box<Limbs>>,
    finite_count: i64,
    nans: i64,
    infinities: i64,
    negative_infinities: i64,
}

impl ExactSum {
    /// The sum of nothing: the integer 0.
    pub(crate) fn new() -> Self {
        ExactSum::default()
    }

    /// Puts an integer in.
    pub(crate) fn add_int(&mut self, value: i128) {
        self.integers.add(value);
        self.integer_count += 1;
    }

    /// Takes an integer out that was put in.
    pub(crate) fn remove_int(&mut self, value: i128) {
        self.integers.subtract(value);
        self.integer_count -= 1;
    }

    /// Puts a float in. Both zeros count as zero.
    pub(crate) fn add_float(&mut self, value: f64) {
        self.count_float(value, 1);
    }

    /// Takes a float out that was put in.
    pub(crate) fn remove_float(&mut self, value: f64) {
        self.count_float(value, -1);
    }

    /// The total. NaN when a NaN or both infinities are in; a zero total is +0.0.
    pub(crate) fn result(&self) -> SumResult {
        if let Some(beyond) = self.not_finite() {
            return SumResult::Float(beyond);
        }
        if self.only_integers()
            && let Some(total) = self.integers.fitting()
        {
            return SumResult::Int(total);
        }
        SumResult::Float(self.total().rounded(1))
    }

    /// The total divided by how many numbers are in, rounded once, ties to even; `None` when none is in. NaN and
    /// infinities as in [`result`](Self::result). No total is too large for it.
    pub(crate) fn mean(&self) -> Option<f64> {
        let numbers = self.integer_count + self.finite_count + self.nans + self.infinities + self.negative_infinities;
        if numbers == 0 {
            return None;
        }
        Some(self.not_finite().unwrap_or_else(|| self.total().rounded(numbers.unsigned_abs())))
    }

    /// How many NaNs are in.
    pub(crate) fn nans(&self) -> u64 {
        self.nans.unsigned_abs()
    }

    /// How many infinities are in, of both signs.
    pub(crate) fn infinities(&self) -> u64 {
        (self.infinities + self.negative_infinities).unsigned_abs()
    }

    /// What NaNs and infinities make of any total.
    fn not_finite(&self) -> Option<f64> {
        match (self.nans, self.infinities, self.negative_infinities) {
            (0, 0, 0) => None,
            (0, _, 0) => Some(f64::INFINITY),
            (0, 0, _) => Some(f64::NEG_INFINITY),
            _ => Some(f64::NAN),
        }
    }

    /// The exact total of the integers and the finite floats.
    fn total(&self) -> Limbs {
        let mut total = match &self.finite {
            Some(limbs) if self.finite_count != 0 => (**limbs).clone(),
            _ => Limbs::default(),
        };
        total.carry();
        total.add_wide(self.integers);
        total
    }

    /// Whether no float is in. A [`SumResult::Float`] then says that the integers' total fits no `i128`.
    pub(crate) fn only_integers(&self) -> bool {
        self.finite_count == 0 && self.nans == 0 && self.infinities == 0 && self.negative_infinities == 0
    }

    fn count_float(&mut self, value: f64, times: i64) {
        if value.is_nan() {
            self.nans += times;
        } else if value == f64::INFINITY {
            self.infinities += times;
        } else if value == f64::NEG_INFINITY {
            self.negative_infinities += times;
        } else {
            self.finite_count += times;
            let signed = if times < 0 { -value } else { value };
            self.finite.get_or_insert_default().add(signed);
        }
    }
}

/// A 256-bit integer in two's complement: no count of `i128`s that fits a computer overflows it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Wide {
    low: u128,
    high: i128,
}

impl Wide {
    fn add(&mut self, value: i128) {
        let (low, carry) = self.low.overflowing_add(value as u128);
        self.low = low;
        self.high += i128::from(carry) - i128::from(value < 0);
    }

    fn subtract(&mut self, value: i128) {
        let (low, borrow) = self.low.overflowing_sub(value as u128);
        self.low = low;
        self.high -= i128::from(borrow) - i128::from(value < 0);
    }

    fn fitting(self) -> Option<i128> {
        let total = self.low as i128;
        let sign = if total < 0 { -1 } else { 0 };
        (self.high == sign).then_some(total)
    }
}

/// A fixed-point number over the whole range of finite floats: the sum of limb n × 2^(32 n - 1074).
#[derive(Debug, Clone)]
struct Limbs {
    limbs: [i64; LIMBS],
    /// Additions since the last carry.
    uncarried: u32,
}

impl Default for Limbs {
    fn default() -> Self {
        Limbs { limbs: [0; LIMBS], uncarried: 0 }
    }
}

impl Limbs {
    fn add(&mut self, value: f64) {
        let bits = value.to_bits();
        let exponent = (bits >> 52 & 0x7ff) as usize;
        let fraction = bits & ((1 << 52) - 1);
        // A subnormal has the exponent of the least normal, and no hidden bit.
        let (mantissa, shift) = if exponent == 0 { (fraction, 0) } else { (fraction | 1 << 52, exponent - 1) };
        let sign = if value.is_sign_negative() { -1 } else { 1 };
        let mut rest = u128::from(mantissa) << (shift % LIMB_BITS);
        for limb in self.limbs.iter_mut().skip(shift / LIMB_BITS) {
            if rest == 0 {
                break;
            }
            *limb += sign * i64::from(rest as u32);
            rest >>= LIMB_BITS;
        }
        self.uncarried += 1;
        if self.uncarried >= CARRY_EVERY {
            self.carry();
        }
    }

    /// Leaves every limb but the last in 0..2^32; the last has the sign.
    fn carry(&mut self) {
        let mut carry = 0;
        for limb in &mut self.limbs[..LIMBS - 1] {
            let total = *limb + carry;
            *limb = total & i64::from(u32::MAX);
            carry = total >> LIMB_BITS;
        }
        self.limbs[LIMBS - 1] += carry;
        self.uncarried = 0;
    }

    fn add_wide(&mut self, value: Wide) {
        let halves = [value.low, value.high as u128];
        let digits = halves.iter().flat_map(|half| (0..4).map(move |digit| (half >> (digit * LIMB_BITS)) as u32));
        let limbs = &mut self.limbs[UNIT_BIT / LIMB_BITS..];
        for (at, (limb, digit)) in limbs.iter_mut().zip(digits).enumerate() {
            // The top digit has the sign of the whole.
            let digit = if at == 7 { i64::from(digit as i32) } else { i64::from(digit) };
            *limb += digit << (UNIT_BIT % LIMB_BITS);
        }
        self.carry();
    }

    /// The float nearest to the number divided by `divisor`, ties to even. The limbs have to be carried.
    fn rounded(mut self, divisor: u64) -> f64 {
        let negative = self.limbs[LIMBS - 1] < 0;
        if negative {
            for limb in &mut self.limbs {
                *limb = -*limb;
            }
            self.carry();
        }
        let magnitude = if divisor == 1 {
            nearest(&self.limbs, 0, false)
        } else {
            let (quotient, has_rest) = self.divided(divisor);
            nearest(&quotient, LIMB_BITS, has_rest)
        };
        if negative { -magnitude } else { magnitude }
    }

    /// The quotient with one more limb below, and whether something is left even then. The number must not be negative.
    fn divided(&self, divisor: u64) -> ([i64; LIMBS + 1], bool) {
        let mut quotient = [0; LIMBS + 1];
        let mut rest = 0;
        for at in (0..=LIMBS).rev() {
            let limb = if at == 0 { 0 } else { self.limbs[at - 1] as u64 };
            let digit;
            // A rest is less than the divisor, so that a digit takes 32 bits.
            (digit, rest) = if divisor <= u64::from(u32::MAX) {
                let part = rest << LIMB_BITS | limb;
                (part / divisor, part % divisor)
            } else {
                let part = u128::from(rest) << LIMB_BITS | u128::from(limb);
                ((part / u128::from(divisor)) as u64, (part % u128::from(divisor)) as u64)
            };
            quotient[at] = digit as i64;
        }
        (quotient, rest != 0)
    }
}

/// The float nearest to carried limbs of which the lowest `below` bits are worth less than 2^-1074, ties to even.
/// `has_more`: something lies below them all.
fn nearest(limbs: &[i64], below: usize, has_more: bool) -> f64 {
    let Some(top) = limbs.iter().rposition(|&limb| limb != 0) else { return 0.0 };
    let highest_bit = top * LIMB_BITS + limbs[top].ilog2() as usize;
    // The mantissa's lowest bit, so that it takes 53 bits or begins at the least float's.
    let shift = highest_bit.saturating_sub(52).max(below);
    let mantissa = bits_from(limbs, shift);
    let half = shift > 0 && bits_from(limbs, shift - 1) & 1 == 1;
    let beyond_half = half && (has_more || any_bit_below(limbs, shift - 1));
    let round_up = half && (beyond_half || mantissa & 1 == 1);
    // With the hidden bit added in, the exponent counts itself up; and so it does when rounding fills the mantissa.
    let bits = (((shift - below) as u64) << 52) + mantissa + u64::from(round_up);
    f64::from_bits(bits.min(f64::INFINITY.to_bits()))
}

/// 53 bits from `from` on.
fn bits_from(limbs: &[i64], from: usize) -> u64 {
    let limb = |at: usize| limbs.get(at).map_or(0, |&limb| limb as u128);
    let at = from / LIMB_BITS;
    let window = limb(at) | limb(at + 1) << LIMB_BITS | limb(at + 2) << (2 * LIMB_BITS);
    (window >> (from % LIMB_BITS)) as u64 & ((1 << 53) - 1)
}

fn any_bit_below(limbs: &[i64], below: usize) -> bool {
    let at = below / LIMB_BITS;
    limbs[..at].iter().any(|&limb| limb != 0) || limbs[at] & ((1 << (below % LIMB_BITS)) - 1) != 0
}

#[cfg(test)]
mod tests;

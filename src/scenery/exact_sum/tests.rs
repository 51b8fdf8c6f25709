use super::*;
use proptest::prelude::*;

fn sum(floats: &[f64]) -> ExactSum {
    let mut sum = ExactSum::new();
    for &float in floats {
        sum.add_float(float);
    }
    sum
}

fn float_of(sum: &ExactSum) -> f64 {
    match sum.result() {
        SumResult::Float(float) => float,
        SumResult::Int(int) => panic!("a float was expected, not the integer {int}"),
    }
}

/// The results, so that two NaNs are equal and two zeros differ.
fn exactly(result: SumResult) -> (Option<i128>, Option<u64>) {
    match result {
        SumResult::Int(int) => (Some(int), None),
        SumResult::Float(float) => (None, Some(float.to_bits())),
    }
}

#[derive(Debug, Clone, Copy)]
enum Number {
    Int(i128),
    Float(f64),
}

impl Number {
    fn add_to(self, sum: &mut ExactSum) {
        match self {
            Number::Int(int) => sum.add_int(int),
            Number::Float(float) => sum.add_float(float),
        }
    }

    fn remove_from(self, sum: &mut ExactSum) {
        match self {
            Number::Int(int) => sum.remove_int(int),
            Number::Float(float) => sum.remove_float(float),
        }
    }
}

fn number() -> impl Strategy<Value = Number> {
    prop_oneof![
        any::<i128>().prop_map(Number::Int),
        any::<i64>().prop_map(|int| Number::Int(int.into())),
        any::<u64>().prop_map(|bits| Number::Float(f64::from_bits(bits))),
        (-1e3..1e3).prop_map(Number::Float),
        prop::sample::select(vec![
            0.0,
            -0.0,
            f64::MAX,
            f64::MIN,
            f64::MIN_POSITIVE,
            5e-324,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::NAN
        ])
        .prop_map(Number::Float),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_history_equals_a_recompute(
        numbers in prop::collection::vec((number(), any::<bool>(), any::<prop::sample::Index>()), 1..40),
    ) {
        let mut history = ExactSum::new();
        let mut present: Vec<Number> = Vec::new();
        for (number, remove, which) in numbers {
            if remove && !present.is_empty() {
                present.swap_remove(which.index(present.len())).remove_from(&mut history);
            } else {
                number.add_to(&mut history);
                present.push(number);
            }
            let mut forward = ExactSum::new();
            present.iter().for_each(|number| number.add_to(&mut forward));
            let mut backward = ExactSum::new();
            present.iter().rev().for_each(|number| number.add_to(&mut backward));
            prop_assert_eq!(exactly(history.result()), exactly(forward.result()));
            prop_assert_eq!(exactly(history.result()), exactly(backward.result()));
            prop_assert_eq!(history.mean().map(f64::to_bits), backward.mean().map(f64::to_bits));
            prop_assert_eq!(history.mean().is_none(), present.is_empty());
        }
    }

    /// Floats that are whole multiples of 2^-40 below 2^73 are summed in an `i128`, which `as f64` rounds correctly.
    #[test]
    fn floats_round_like_the_exact_total(
        parts in prop::collection::vec((-(1i64 << 53)..=1i64 << 53, 0u32..60), 0..40),
        integers in prop::collection::vec(-(1i64 << 60)..1i64 << 60, 0..6),
    ) {
        let unit = 2f64.powi(-40);
        let mut total = 0i128;
        let mut exact = ExactSum::new();
        exact.add_float(0.0);
        for (mantissa, shift) in parts {
            total += i128::from(mantissa) << shift;
            exact.add_float(mantissa as f64 * 2f64.powi(shift as i32) * unit);
        }
        for integer in integers {
            total += i128::from(integer) << 40;
            exact.add_int(integer.into());
        }
        // Scaling by a power of two rounds nothing in this range.
        prop_assert_eq!(float_of(&exact).to_bits(), (total as f64 * unit).to_bits());
    }

    /// The quotient of an `i128` in 120 bits and a bit for what is left, which the processor's conversion rounds once.
    #[test]
    fn means_round_like_the_exact_quotient(
        parts in prop::collection::vec((-(1i64 << 53)..=1i64 << 53, 0u32..40), 1..40),
        integers in prop::collection::vec(-(1i64 << 50)..1i64 << 50, 0..6),
        more in prop::sample::select(vec![0i64, 0, 1 << 33, (1 << 40) + 1]),
    ) {
        let mut total = 0i128;
        let mut exact = ExactSum::new();
        for (mantissa, shift) in &parts {
            total += i128::from(*mantissa) << shift;
            exact.add_float(*mantissa as f64 * 2f64.powi(*shift as i32 - 40));
        }
        for integer in &integers {
            total += i128::from(*integer) << 40;
            exact.add_int((*integer).into());
        }
        // As if so many zeros were in.
        exact.integer_count += more;
        let numbers = (parts.len() + integers.len()) as u128 + more as u128;
        let room = total.unsigned_abs().leading_zeros().min(127);
        let scaled = total.unsigned_abs() << room;
        let quotient = (scaled / numbers) | u128::from(!scaled.is_multiple_of(numbers));
        let expected = quotient as f64 * 2f64.powi(-(room as i32)) * 2f64.powi(-40);
        let expected = if total < 0 { -expected } else { expected };
        prop_assert_eq!(exact.mean().map(f64::to_bits), Some(expected.to_bits()));
    }

    #[test]
    fn the_mean_of_equal_numbers_is_that_number(bits in any::<u64>(), times in 1..50usize) {
        let float = f64::from_bits(bits);
        let mean = sum(&vec![float; times]).mean();
        prop_assert!(float.is_nan() || mean == Some(float), "{:?}", mean);
    }

    #[test]
    fn two_floats_add_like_the_processor(a in any::<u64>(), b in any::<u64>()) {
        let (a, b) = (f64::from_bits(a), f64::from_bits(b));
        let result = float_of(&sum(&[a, b]));
        prop_assert!(result == a + b || (result.is_nan() && (a + b).is_nan()));
    }

    #[test]
    fn near_floats_add_like_the_processor(a in any::<u64>(), by in -60i64..60, low in any::<u64>(), minus: bool) {
        let a = f64::from_bits(a);
        let exponent = ((a.to_bits() >> 52 & 0x7ff) as i64 + by).clamp(0, 0x7fe) as u64;
        let b = f64::from_bits(u64::from(minus) << 63 | exponent << 52 | low >> 12);
        let result = float_of(&sum(&[a, b]));
        prop_assert!(result == a + b || (result.is_nan() && (a + b).is_nan()));
    }
}

#[test]
fn integers_stay_exact_and_come_back_from_an_overflow() {
    let mut sum = ExactSum::new();
    assert_eq!(sum.result(), SumResult::Int(0));
    for _ in 0..5 {
        sum.add_int(i128::MAX);
    }
    assert_eq!(sum.result(), SumResult::Float(5.0 * 2f64.powi(127)));
    assert!(sum.only_integers());
    for _ in 0..4 {
        sum.remove_int(i128::MAX);
    }
    assert_eq!(sum.result(), SumResult::Int(i128::MAX));
    sum.remove_int(i128::MAX);
    for _ in 0..3 {
        sum.add_int(i128::MIN);
    }
    assert_eq!(sum.result(), SumResult::Float(-3.0 * 2f64.powi(127)));
    sum.remove_int(i128::MIN);
    sum.remove_int(i128::MIN);
    assert_eq!(sum.result(), SumResult::Int(i128::MIN));
}

#[test]
fn huge_floats_cancel() {
    assert_eq!(float_of(&sum(&[1e308, 1e308, -1e308])), 1e308);
    assert_eq!(float_of(&sum(&[1e308, 1e308])), f64::INFINITY);
    assert_eq!(float_of(&sum(&[-1e308, -1e308])), f64::NEG_INFINITY);
    assert_eq!(float_of(&sum(&[1e308, 5e-324, -1e308])), 5e-324);
    assert_eq!(float_of(&sum(&[1e100, 1.0, -1e100, -1e100, 1e100])), 1.0);
    assert_eq!(float_of(&sum(&[f64::MAX, 2.0f64.powi(970)])), f64::INFINITY);
    assert_eq!(float_of(&sum(&[f64::MAX, f64::MAX / 2.0f64.powi(54)])), f64::MAX);
}

#[test]
fn subnormals_are_exact() {
    let least = 5e-324;
    assert_eq!(float_of(&sum(&[least, least])), 1e-323);
    assert_eq!(float_of(&sum(&[f64::MIN_POSITIVE, -least])), f64::from_bits((1 << 52) - 1));
    assert_eq!(float_of(&sum(&[f64::from_bits((1 << 52) - 1), least])), f64::MIN_POSITIVE);
    assert_eq!(float_of(&sum(&[-least])), -least);
}

#[test]
fn ties_go_to_the_even_neighbour() {
    let big = 2f64.powi(53);
    assert_eq!(float_of(&sum(&[big, 1.0])), big);
    assert_eq!(float_of(&sum(&[big, 1.0, 1.0])), big + 2.0);
    assert_eq!(float_of(&sum(&[big + 2.0, 1.0])), big + 4.0);
    assert_eq!(float_of(&sum(&[big, 1.0, 5e-324])), big + 2.0);
    assert_eq!(float_of(&sum(&[-big, -1.0, -5e-324])), -big - 2.0);
    assert_eq!(float_of(&sum(&[-big, -1.0, 5e-324])), -big);
}

#[test]
fn zeros_are_plain_zero() {
    assert_eq!(float_of(&sum(&[-0.0])).to_bits(), 0.0f64.to_bits());
    assert_eq!(float_of(&sum(&[1.5, -1.5])).to_bits(), 0.0f64.to_bits());
}

#[test]
fn special_values_are_counted() {
    let mut sum = sum(&[1.0, f64::INFINITY]);
    assert_eq!(float_of(&sum), f64::INFINITY);
    sum.add_float(f64::NEG_INFINITY);
    assert!(float_of(&sum).is_nan());
    sum.remove_float(f64::INFINITY);
    assert_eq!(float_of(&sum), f64::NEG_INFINITY);
    sum.add_float(f64::NAN);
    assert!(float_of(&sum).is_nan());
    sum.remove_float(f64::NAN);
    sum.remove_float(f64::NEG_INFINITY);
    assert_eq!(float_of(&sum), 1.0);
    sum.remove_float(1.0);
    assert_eq!(sum.result(), SumResult::Int(0));
}

#[test]
fn carries_in_time() {
    let mut limbs = Limbs::default();
    for _ in 0..3 {
        limbs.add(f64::MAX);
        limbs.uncarried = CARRY_EVERY - 1;
        limbs.add(-f64::MAX);
        assert_eq!(limbs.uncarried, 0);
    }
    limbs.carry();
    assert_eq!(limbs.rounded(1), 0.0);
}

#[test]
fn means_of_the_largest_and_the_least_floats_are_exact() {
    let mean = |floats: &[f64]| sum(floats).mean();
    assert_eq!(mean(&[]), None);
    assert_eq!(mean(&[f64::MAX; 3]), Some(f64::MAX), "a total that is no float has a mean");
    assert_eq!(mean(&[5e-324, 0.0]), Some(0.0), "a tie goes to the even");
    assert_eq!(mean(&[5e-324, 1e-323]), Some(1e-323), "a tie goes to the even");
    assert_eq!(mean(&[5e-324, 5e-324, 0.0]), Some(5e-324));
    assert_eq!(mean(&[-1e-323, 0.0]), Some(-5e-324));
    assert_eq!(mean(&[-0.0]).map(f64::to_bits), Some(0));
    assert_eq!(mean(&[f64::INFINITY, 1.0]), Some(f64::INFINITY));
    assert_eq!(mean(&[f64::NEG_INFINITY, 1.0]), Some(f64::NEG_INFINITY));
    assert!(mean(&[f64::NEG_INFINITY, f64::INFINITY]).is_some_and(f64::is_nan));
    assert!(mean(&[f64::NAN, 1.0]).is_some_and(f64::is_nan));
    let mut integers = ExactSum::new();
    integers.add_int(i128::MAX);
    integers.add_int(i128::MAX);
    assert_eq!(integers.mean(), Some(2f64.powi(127)));
    integers.remove_int(i128::MAX);
    integers.remove_int(i128::MAX);
    integers.add_int(1);
    integers.add_int(2);
    assert_eq!(integers.mean(), Some(1.5));
}

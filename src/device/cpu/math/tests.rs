//! Tests of the elementary functions: errors against `f64` in units in the last place, special values, and equal bits
//! at every vector width.

use super::*;
use crate::device::erf as exact;

type Function = fn(f32) -> f32;

/// Functions under test: name, the `f32` version, the `f64` reference, allowed ulp.
type Row = (&'static str, Function, fn(f64) -> f64, f64);

/// With products and sums in one instruction, and without.
fn rows() -> impl Iterator<Item = Row> {
    table::<true>().into_iter().chain(table::<false>())
}

fn table<const FMA: bool>() -> [Row; 10] {
    [
        ("exp", exp::<FMA>, f64::exp, 1.1),
        ("exp_of_negative", |x| exp_of_negative::<FMA>(as_exponent(x) as f32), |x| as_exponent(x).exp(), 1.1),
        ("exp_m1", exp_m1::<FMA>, f64::exp_m1, 1.8),
        ("ln", ln::<FMA>, f64::ln, 0.9),
        ("ln_1p", ln_1p::<FMA>, f64::ln_1p, 1.5),
        ("tanh", tanh::<FMA>, f64::tanh, 1.6),
        ("sigmoid", sigmoid::<FMA>, |x| 1.0 / (1.0 + (-x).exp()), 1.9),
        ("erf", erf::<FMA>, exact::erf, 1.8),
        ("sin", sin::<FMA>, f64::sin, 1.7),
        ("cos", cos::<FMA>, f64::cos, 1.7),
    ]
}

/// An argument of `exp_of_negative` whose exponential is no subnormal: -87.3 to 0, and NaN.
fn as_exponent(x: impl Into<f64>) -> f64 {
    let magnitude: f64 = x.into().abs();
    if magnitude > 87.3 { f64::from(-87.3_f32) } else { -magnitude }
}

/// Distance from the exact value in units in the last place of the exact
/// value's binade (subnormal results count in the subnormal spacing).
fn ulp_error(actual: f32, exact: f64) -> f64 {
    let rounded = exact as f32;
    if actual.is_nan() || rounded.is_nan() {
        return if actual.is_nan() && rounded.is_nan() { 0.0 } else { f64::INFINITY };
    }
    if actual.is_infinite() || rounded.is_infinite() {
        // Allow for a result within the last half ulp of overflow.
        let near_limit = exact.abs() > f64::from(f32::MAX) * (1.0 - 1e-7);
        let same_sign = f64::from(actual) * exact > 0.0;
        let agree = actual == rounded || near_limit && same_sign && actual.abs() > 3.4e38;
        return if agree { 0.0 } else { f64::INFINITY };
    }
    let exponent = ((exact.to_bits() >> 52) & 0x7ff) as i32 - 1023;
    let spacing = 2.0_f64.powi(exponent.max(-126) - 23);
    (f64::from(actual) - exact).abs() / spacing
}

/// Largest error over every `stride`-th bit pattern, and where it occurs.
fn largest_error(row: &Row, stride: usize) -> (f64, f32) {
    let (name, function, reference, _) = *row;
    let trigonometric = name == "sin" || name == "cos";
    let mut worst = (0.0, 0.0);
    for bits in (0..=u32::MAX).step_by(stride) {
        let x = f32::from_bits(bits);
        if trigonometric && x.abs() > TRIGONOMETRIC_LIMIT {
            continue;
        }
        let error = ulp_error(function(x), reference(f64::from(x)));
        if error > worst.0 {
            worst = (error, x);
        }
    }
    worst
}

fn bound_errors(stride: usize) {
    for row in rows() {
        let (error, at) = largest_error(&row, stride);
        println!("{:8} {error:.3} ulp at {at:e}", row.0);
        assert!(error <= row.3, "{}: {error} ulp at {at:e}", row.0);
    }
}

#[test]
fn errors_stay_within_bounds() {
    // A prime stride visits every exponent and both signs.
    let stride = if cfg!(debug_assertions) { 49_999 } else { 4_999 };
    bound_errors(stride);
}

#[test]
fn gelu_and_its_slope_stay_within_bounds() {
    let density = |x: f64| (-0.5 * x * x).exp() / core::f64::consts::TAU.sqrt();
    let kinds: [[Function; 2]; 2] =
        [[gelu::<true>, gelu_slope::<true>], [gelu::<false>, gelu_slope::<false>]];
    for [gelu, gelu_slope] in kinds {
        let (mut worst, mut worst_slope) = (0.0_f64, 0.0_f64);
        for x in (0..=u32::MAX).step_by(4_999).map(f32::from_bits).filter(|x| x.is_normal()) {
            let wide = f64::from(x);
            worst = worst.max((f64::from(gelu(x)) / wide - exact::normal_cdf(wide)).abs());
            let slope = exact::normal_cdf(wide) + wide * density(wide);
            worst_slope = worst_slope.max((f64::from(gelu_slope(x)) - slope).abs());
        }
        println!("gelu {worst:e} of x, slope {worst_slope:e}");
        assert!(worst <= 1.1e-7, "gelu: {worst:e}");
        assert!(worst_slope <= 1.3e-7, "slope: {worst_slope:e}");
    }
}

/// Every bit pattern takes some twenty minutes, every n-th with `MATH_STRIDE=n`:
/// `cargo test --release exhaustive -- --ignored --nocapture`.
#[test]
#[ignore = "visits every f32 bit pattern"]
fn exhaustive() {
    let stride = std::env::var("MATH_STRIDE").map_or(1, |text| text.parse().unwrap());
    bound_errors(stride);
}

#[test]
fn special_cases() {
    special_cases_of::<true>();
    special_cases_of::<false>();
}

fn special_cases_of<const FMA: bool>() {
    let infinity = f32::INFINITY;
    for (name, function, _, _) in table::<FMA>() {
        assert!(function(f32::NAN).is_nan(), "{name} of NaN");
        assert!(function(-f32::NAN).is_nan(), "{name} of -NaN");
    }
    let cases: [(&str, f32, f32); 35] = [
        ("exp(0)", exp::<FMA>(0.0), 1.0),
        ("exp(-inf)", exp::<FMA>(-infinity), 0.0),
        ("exp(inf)", exp::<FMA>(infinity), infinity),
        ("exp_of_negative(0)", exp_of_negative::<FMA>(0.0), 1.0),
        ("exp_of_negative(-88)", exp_of_negative::<FMA>(-88.0), 0.0),
        ("exp_of_negative(-inf)", exp_of_negative::<FMA>(-infinity), 0.0),
        ("exp(89)", exp::<FMA>(89.0), infinity),
        ("exp(-104)", exp::<FMA>(-104.0), 0.0),
        ("exp_m1(-0)", exp_m1::<FMA>(-0.0), -0.0),
        ("exp_m1(-inf)", exp_m1::<FMA>(-infinity), -1.0),
        ("exp_m1(inf)", exp_m1::<FMA>(infinity), infinity),
        ("ln(1)", ln::<FMA>(1.0), 0.0),
        ("ln(0)", ln::<FMA>(0.0), -infinity),
        ("ln(-0)", ln::<FMA>(-0.0), -infinity),
        ("ln(inf)", ln::<FMA>(infinity), infinity),
        ("ln_1p(-0)", ln_1p::<FMA>(-0.0), -0.0),
        ("ln_1p(-1)", ln_1p::<FMA>(-1.0), -infinity),
        ("ln_1p(inf)", ln_1p::<FMA>(infinity), infinity),
        ("tanh(-0)", tanh::<FMA>(-0.0), -0.0),
        ("tanh(inf)", tanh::<FMA>(infinity), 1.0),
        ("tanh(-inf)", tanh::<FMA>(-infinity), -1.0),
        ("sigmoid(0)", sigmoid::<FMA>(0.0), 0.5),
        ("sigmoid(inf)", sigmoid::<FMA>(infinity), 1.0),
        ("sigmoid(-inf)", sigmoid::<FMA>(-infinity), 0.0),
        ("erf(-0)", erf::<FMA>(-0.0), -0.0),
        ("erf(inf)", erf::<FMA>(infinity), 1.0),
        ("erf(-inf)", erf::<FMA>(-infinity), -1.0),
        ("gelu(-0)", gelu::<FMA>(-0.0), -0.0),
        ("gelu(inf)", gelu::<FMA>(infinity), infinity),
        ("gelu(-inf)", gelu::<FMA>(-infinity), 0.0),
        ("gelu_slope(inf)", gelu_slope::<FMA>(infinity), 1.0),
        ("gelu_slope(-inf)", gelu_slope::<FMA>(-infinity), -0.0),
        ("sin(-0)", sin::<FMA>(-0.0), -0.0),
        ("cos(0)", cos::<FMA>(0.0), 1.0),
        ("sin(2^-149)", sin::<FMA>(1e-45), 1e-45),
    ];
    for (name, actual, expected) in cases {
        assert_eq!(actual.to_bits(), expected.to_bits(), "{name}: {actual:e}");
    }
    for nan in [
        ln::<FMA>(-1.0),
        ln::<FMA>(-infinity),
        ln::<FMA>(-1e-45),
        ln_1p::<FMA>(-1.5),
        sin::<FMA>(infinity),
        cos::<FMA>(-infinity),
    ] {
        assert!(nan.is_nan());
    }
}

#[test]
fn bounded_functions_stay_bounded() {
    bounded::<true>();
    bounded::<false>();
}

fn bounded<const FMA: bool>() {
    for bits in (0..=u32::MAX).step_by(49_999) {
        let x = f32::from_bits(bits);
        for value in
            [tanh::<FMA>(x), erf::<FMA>(x), sin::<FMA>(x), cos::<FMA>(x), 2.0 * sigmoid::<FMA>(x) - 1.0]
        {
            assert!(value.is_nan() || value.abs() <= 1.0, "{x:e}: {value:e}");
        }
    }
}

/// Every vector width must give the same bits.
#[cfg(target_arch = "x86_64")]
#[test]
fn vector_widths_agree() {
    macro_rules! check {
        ($($name:ident),*) => {$({
            #[inline(always)]
            fn map(input: &[f32], output: &mut [f32]) {
                for (out, x) in output.iter_mut().zip(input) {
                    *out = $name::<true>(*x);
                }
            }
            #[target_feature(enable = "avx2,fma")]
            fn with_avx2(input: &[f32], output: &mut [f32]) {
                map(input, output);
            }
            #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,fma")]
            fn with_avx512(input: &[f32], output: &mut [f32]) {
                map(input, output);
            }
            let input: Vec<f32> =
                (0..=u32::MAX).step_by(99_991).map(f32::from_bits).collect();
            let mut expected = vec![0.0; input.len()];
            let mut actual = vec![0.0; input.len()];
            map(&input, &mut expected);
            let same = |actual: &[f32]| {
                actual.iter().zip(&expected).all(|(left, right)| {
                    left.to_bits() == right.to_bits() || left.is_nan() && right.is_nan()
                })
            };
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                // SAFETY: the features were detected.
                unsafe { with_avx2(&input, &mut actual) };
                assert!(same(&actual), "{} with AVX2", stringify!($name));
            }
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("fma")
            {
                // SAFETY: the features were detected.
                unsafe { with_avx512(&input, &mut actual) };
                assert!(same(&actual), "{} with AVX-512", stringify!($name));
            }
        })*};
    }
    check!(exp, exp_of_negative, exp_m1, ln, ln_1p, tanh, sigmoid, erf, gelu, gelu_slope, sin, cos);
}

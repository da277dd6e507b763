//! Elementary functions on `f32`, written so that loops over them vectorise.
//!
//! Every function is straight-line code: additions, multiplications, integer operations on the bit pattern, and
//! `if`/`else` between two values that are both already computed. The compiler turns such a choice into a blend,
//! so `for i in 0..n { out[i] = exp(x[i]) }` becomes vector code at whatever width the enclosing function enables:
//! SSE2 or NEON as the baseline, AVX2, AVX-512. There are no tables and no library calls.
//!
//! Each function follows the same two steps.
//!
//! 1. *Range reduction*: rewrite the argument so that what remains to compute lies on a short interval around
//!    zero. For `exp`, x = n ln 2 + r; for `ln`, x = 2^k (1 + f); for `sin` and `cos`, x = n pi/2 + r.
//! 2. *Polynomial*: on the short interval a polynomial of low degree is as accurate as the format. It is evaluated
//!    by Horner's rule, in the order small terms first, so that the rounding errors of the early steps are scaled
//!    down by the later ones.
//!
//! The polynomials are minimax fits, made by the Remez exchange algorithm in 40-digit arithmetic (minimising the
//! *relative* error of the function) and then rounded to `f32`. Beside each stand its interval and its error
//! before and after that rounding; 2^-24 = 6.0e-8 is half a unit in the last place.
//!
//! `FMA` says whether the loop is compiled for a processor that multiplies and adds in one instruction, which is
//! half of the work; without that, `mul_add` is a slow library call. So results are the same bits on every vector
//! width of such processors, and others on those without. Constants are split into a high part with few
//! significant bits, whose product with a small integer is exact, and a low part that carries the rest.
//!
//! The errors stated, in units in the last place (ulp), bound those measured against `f64` over every seventh
//! `f32` bit pattern, by the ignored test `exhaustive` in `tests.rs`; the other tests there take a coarser
//! sample.
//! Read next: `normal.rs`, with `erf` and `gelu`.

mod normal;

pub use normal::{erf, gelu, gelu_slope};

/// Adding then subtracting 1.5 * 2^23 + 127 rounds a small `f32` to an integer,
/// and the low bits of the sum hold that integer plus 127, which is its exponent
/// field: of [`power_of_two`] the compiler leaves one shift.
const ROUND_SINGLE: f32 = 12_583_039.0;

/// Adding then subtracting 1.5 * 2^52 rounds a small `f64` to an integer, and
/// the low bits of the sum hold that integer.
const ROUND_DOUBLE: f64 = 6_755_399_441_055_744.0;

/// ln 2 to 15 significant bits: its product with |n| < 2^9 is exact.
const LN_2_HIGH: f32 = 0.693_145_75;

/// ln 2 minus its high part.
const LN_2_LOW: f32 = 1.428_606_8e-6;

/// Bit pattern of 1.0, and the place of the exponent in a bit pattern.
const ONE_BITS: i32 = 0x3f80_0000;
const EXPONENT_SHIFT: u32 = 23;

/// Beyond this magnitude `sin` and `cos` return NaN (see [`sin`]).
pub const TRIGONOMETRIC_LIMIT: f32 = 268_435_456.0;

/// a b + c, rounded once if `FMA`.
#[inline(always)]
fn multiply_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// The polynomial of these coefficients, highest power first, by Horner's rule.
#[inline(always)]
fn polynomial<const FMA: bool>(coefficients: &[f32], x: f32) -> f32 {
    let sum = |sum, &coefficient| multiply_add::<FMA>(sum, x, coefficient);
    coefficients[1..].iter().fold(coefficients[0], sum)
}

/// 2^n for -126 <= n <= 127, and 0 for n = -127, by placing n in the exponent field.
#[inline(always)]
fn power_of_two(exponent: i32) -> f32 {
    f32::from_bits(ONE_BITS.wrapping_add(exponent << EXPONENT_SHIFT) as u32)
}

/// Splits x = n ln 2 + r with |r| <= ln 2 / 2 and returns (n, e^r - 1).
///
/// Writes e^r - 1 - r = r^2 q(r), with q of degree 4 on [-0.3473, 0.3473];
/// error relative to e^r - 1 is 1.3e-8 (1.7e-8 with rounded coefficients).
#[inline(always)]
fn exponential_parts<const FMA: bool>(x: f32) -> (i32, f32) {
    let shifted = multiply_add::<FMA>(x, core::f32::consts::LOG2_E, ROUND_SINGLE);
    let exponent = (shifted.to_bits() as i32).wrapping_sub(ROUND_SINGLE.to_bits() as i32);
    let multiple = shifted - ROUND_SINGLE;
    let rest = multiply_add::<FMA>(-multiple, LN_2_HIGH, x);
    let rest = multiply_add::<FMA>(-multiple, LN_2_LOW, rest);
    let quotient =
        polynomial::<FMA>(&[1.388_249_7e-3, 8.366_647e-3, 4.166_720_4e-2, 0.166_665_42, 0.499_999_97], rest);
    (exponent, multiply_add::<FMA>(rest * rest, quotient, rest))
}

/// e^x; error at most 1.1 ulp, with gradual underflow below 1.2e-38.
#[inline(always)]
pub fn exp<const FMA: bool>(x: f32) -> f32 {
    // Outside these bounds the result is 0 or infinity already; NaN passes.
    let clamped = if 89.0 < x { 89.0 } else { x };
    let clamped = if -104.0 > clamped { -104.0 } else { clamped };
    let (exponent, minus_one) = exponential_parts::<FMA>(clamped);
    // 2^n in two factors: n itself reaches -150 and 128, outside the exponent
    // field, and the last multiplication rounds into the subnormal range.
    let half = exponent >> 1;
    let other_half = exponent.wrapping_sub(half);
    let half = power_of_two(half);
    multiply_add::<FMA>(half, minus_one, half) * power_of_two(other_half)
}

/// e^x for x <= 0 and a little above; error at most 1.1 ulp. What `exp` gives below 1.2e-38 may be 0 here.
///
/// For terms that are added to a 1, as in a softmax, in fewer operations than [`exp`].
#[inline(always)]
pub fn exp_of_negative<const FMA: bool>(x: f32) -> f32 {
    // There n is -127, whose place in the exponent field makes the factor 2^n 0.
    let clamped = if -88.0 > x { -88.0 } else { x };
    let (exponent, minus_one) = exponential_parts::<FMA>(clamped);
    let scale = power_of_two(exponent);
    multiply_add::<FMA>(scale, minus_one, scale)
}

/// e^x - 1 without cancellation near zero; error at most 1.8 ulp.
#[inline(always)]
pub fn exp_m1<const FMA: bool>(x: f32) -> f32 {
    let clamped = if 89.0 < x { 89.0 } else { x };
    let clamped = if -20.0 > clamped { -20.0 } else { clamped };
    let (exponent, minus_one) = exponential_parts::<FMA>(clamped);
    // e^x - 1 = 2^n (e^r - 1) + (2^n - 1), all halved so that n = 128 fits.
    let half_scale = power_of_two(exponent.wrapping_sub(1));
    let half = multiply_add::<FMA>(half_scale, minus_one, half_scale - 0.5);
    (half + half).copysign(x)
}

/// ln(1 + f) + k ln 2 for sqrt(1/2) - 1 <= f <= sqrt(2) - 1.
///
/// Writes ln(1 + f) = f - f^2/2 + f^3 p(f), with p of degree 8; relative error
/// 7.5e-10 (3.2e-9 with rounded coefficients).
#[inline(always)]
fn logarithm_from_parts<const FMA: bool>(fraction: f32, exponent: i32) -> f32 {
    let coefficients = [
        6.746_641_5e-2,
        -0.116_756_51,
        0.118_881_61,
        -0.124_055_885,
        0.142_195_52,
        -0.166_679_96,
        0.200_021_19,
        -0.250_000_1,
        0.333_333_13,
    ];
    let cubic = polynomial::<FMA>(&coefficients, fraction);
    let square = fraction * fraction;
    let multiple = exponent as f32;
    let tail = multiply_add::<FMA>(cubic * fraction, square, multiple * LN_2_LOW);
    let tail = multiply_add::<FMA>(-0.5, square, tail);
    multiply_add::<FMA>(multiple, LN_2_HIGH, fraction + tail)
}

/// Splits a positive normal x = 2^k m with sqrt(1/2) <= m < sqrt(2): (k, m).
#[inline(always)]
fn exponent_and_mantissa(x: f32) -> (i32, f32) {
    let bits = x.to_bits() as i32;
    let exponent = bits.wrapping_sub(core::f32::consts::FRAC_1_SQRT_2.to_bits() as i32) >> EXPONENT_SHIFT;
    let mantissa_bits = bits.wrapping_sub(exponent << EXPONENT_SHIFT);
    (exponent, f32::from_bits(mantissa_bits as u32))
}

/// Puts the limits of the logarithm in place: ln 0, ln of infinity and of less than 0.
#[inline(always)]
fn logarithm_special_cases(argument: f32, value: f32) -> f32 {
    // The first choice also lets NaN through, and keeps infinity.
    let value = if argument < f32::INFINITY { value } else { argument };
    let value = if argument == 0.0 { f32::NEG_INFINITY } else { value };
    if argument < 0.0 { f32::NAN } else { value }
}

/// Natural logarithm, right for subnormals too; error at most 0.9 ulp.
#[inline(always)]
pub fn ln<const FMA: bool>(x: f32) -> f32 {
    // 2^23 times a subnormal is normal.
    let subnormal = x < f32::MIN_POSITIVE;
    let scaled = x * if subnormal { 8_388_608.0 } else { 1.0 };
    let (exponent, mantissa) = exponent_and_mantissa(scaled);
    let exponent = exponent.wrapping_sub(if subnormal { 23 } else { 0 });
    logarithm_special_cases(x, logarithm_from_parts::<FMA>(mantissa - 1.0, exponent))
}

/// ln(1 + x) without cancellation near zero; error at most 1.5 ulp.
#[inline(always)]
pub fn ln_1p<const FMA: bool>(x: f32) -> f32 {
    // 1 + x = sum + error exactly (Knuth's two-sum).
    let sum = 1.0 + x;
    let from_x = sum - 1.0;
    let error = (1.0 - (sum - from_x)) + (x - from_x);
    let (exponent, mantissa) = exponent_and_mantissa(sum);
    // From 2^25 on, the error no longer counts; 2^-k must stay normal.
    let capped = if exponent > 126 { 126 } else { exponent };
    let fraction = multiply_add::<FMA>(error, power_of_two(capped.wrapping_neg()), mantissa - 1.0);
    let value = logarithm_from_parts::<FMA>(fraction, exponent);
    let value = logarithm_special_cases(sum, value);
    if x == 0.0 { x } else { value }
}

/// Hyperbolic tangent; error at most 1.6 ulp.
#[inline(always)]
pub fn tanh<const FMA: bool>(x: f32) -> f32 {
    let magnitude = x.abs();
    // |x| <= 0.45: tanh x = x + x^3 p(x^2), p of degree 3 on [0, 0.2025];
    // relative error 8.9e-9 (9.0e-9 with rounded coefficients).
    let square = magnitude * magnitude;
    let near = polynomial::<FMA>(&[1.792_776_2e-2, -5.331_819_5e-2, 0.133_291_54, -0.333_332_57], square);
    let near = multiply_add::<FMA>(magnitude, square * near, magnitude);
    // Above: (E - 1) / (E + 1) with E = e^(2|x|) = 2^n e^r; 1 in f32 from 9.02 on.
    let clamped = if 10.0 < magnitude { 10.0 } else { magnitude };
    let (exponent, minus_one) = exponential_parts::<FMA>(clamped + clamped);
    let scale = power_of_two(exponent);
    let minus_one = multiply_add::<FMA>(scale, minus_one, scale - 1.0);
    let far = minus_one / (minus_one + 2.0);
    let value = if magnitude < 0.45 { near } else { far };
    value.copysign(x)
}

/// Logistic sigmoid 1 / (1 + e^-x); error at most 1.9 ulp.
#[inline(always)]
pub fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    // Only d = e^-|x| is needed, which cannot overflow: the result is
    // 1 / (1 + d) for x >= 0, and d / (1 + d) for x < 0. With q = d / (1 + d)
    // both are c - c q, where c is 1 or d: written so, the rounding of 1 + d
    // and of the division count only for the fraction q.
    let decay = exp::<FMA>(-x.abs());
    let quotient = decay / (1.0 + decay);
    let ceiling = if x < 0.0 { decay } else { 1.0 };
    multiply_add::<FMA>(-ceiling, quotient, ceiling)
}

/// Sine of x + quarter_turns pi/2, the common body of `sin` and `cos`.
///
/// x = n pi/2 + r is taken in `f64`: n below 2^28 times a 25-bit pi/2 is exact,
/// and so is its difference from x, so r keeps its digits near the zeros.
/// On |r| <= pi/4, sin r = r + r^3 s(r^2) and cos r = 1 - r^2/2 + r^4 c(r^2)
/// with s and c of degree 2; relative errors 6.5e-9 and 2.6e-10 (8.7e-9 and
/// 9.7e-10 with rounded coefficients).
#[inline(always)]
fn sine_of_quadrant<const FMA: bool>(x: f32, quarter_turns: u32) -> f32 {
    const HALF_PI_HIGH: f64 = 1.570_796_310_901_641_8;
    const HALF_PI_LOW: f64 = 1.589_325_477_352_819_6e-8;
    let wide = f64::from(x);
    let shifted = wide * core::f64::consts::FRAC_2_PI + ROUND_DOUBLE;
    let multiple = shifted - ROUND_DOUBLE;
    let quadrant = (shifted.to_bits() as u32).wrapping_add(quarter_turns);
    let rest = ((wide - multiple * HALF_PI_HIGH) - multiple * HALF_PI_LOW) as f32;
    let square = rest * rest;
    let sine = polynomial::<FMA>(&[-1.950_329_3e-4, 8.332_096e-3, -0.166_666_55], square);
    let sine = multiply_add::<FMA>(rest, square * sine, rest);
    let cosine = polynomial::<FMA>(&[2.446_316_6e-5, -1.388_764_9e-3, 4.166_665_3e-2], square);
    let half = multiply_add::<FMA>(-0.5, square, 1.0);
    let cosine = multiply_add::<FMA>(square * square, cosine, half);
    // Odd quadrants take the cosine; the upper two of the four are negative.
    let value = if quadrant & 1 == 0 { sine } else { cosine };
    let value = f32::from_bits(value.to_bits() ^ ((quadrant & 2) << 30));
    if x.abs() <= TRIGONOMETRIC_LIMIT { value } else { f32::NAN }
}

/// Sine; error at most 1.7 ulp for |x| <= 2^28 = [`TRIGONOMETRIC_LIMIT`], NaN beyond it.
///
/// Beyond the limit neighbouring `f32` values are 32 or more apart, several
/// periods, and a straight-line reduction would need a table of digits of pi;
/// a caller who wants those values can test for them and use `f32::sin`.
#[inline(always)]
pub fn sin<const FMA: bool>(x: f32) -> f32 {
    let value = sine_of_quadrant::<FMA>(x, 0);
    if x == 0.0 { x } else { value }
}

/// Cosine; error at most 1.7 ulp for |x| <= 2^28 = [`TRIGONOMETRIC_LIMIT`], NaN beyond it.
#[inline(always)]
pub fn cos<const FMA: bool>(x: f32) -> f32 {
    sine_of_quadrant::<FMA>(x, 1)
}

#[cfg(test)]
#[allow(unsafe_code)]
mod tests;

//! The error function, and GELU, which is made of the same integral: the normal distribution.
//!
//! Written as the functions of `mod.rs`, where the method, the polynomials and `FMA` are explained.

use super::{ROUND_SINGLE, multiply_add, polynomial, power_of_two};

/// Error function 2/sqrt(pi) times the integral of e^(-t^2) from 0 to x; error at most 1.8 ulp.
#[inline(always)]
pub fn erf<const FMA: bool>(x: f32) -> f32 {
    let magnitude = x.abs();
    // |x| <= 1: erf x = x + x p(x^2), p of degree 6 on [0, 1]; relative error
    // 1.2e-9 (2.4e-9 with rounded coefficients). Here and below the powers that
    // count least are added up in two chains, even and odd, which wait less for
    // one another; Horner's rule ends them, so the rounding errors stay small.
    let square = magnitude * magnitude;
    let fourth = square * square;
    let even = polynomial::<FMA>(&[7.853_862e-5, 5.188_327_7e-3, 0.112_835_854], fourth);
    let odd = polynomial::<FMA>(&[-8.010_193_7e-4, -2.685_381_3e-2], fourth);
    let near = multiply_add::<FMA>(square, odd, even);
    let near = polynomial::<FMA>(&[near, -0.376_126_26, 0.128_379_17], square);
    let near = multiply_add::<FMA>(magnitude, near, magnitude);
    // 1 <= |x| <= 3.925: a polynomial in |x| - 5/2 of degree 12 on
    // [-1.5, 1.425]; relative error 3.2e-8 (4.4e-8 with rounded coefficients).
    // Above that erf x is 1 in f32.
    let clamped = if 3.925 < magnitude { 3.925 } else { magnitude };
    let offset = clamped - 2.5;
    let square = offset * offset;
    let even = [-9.055_206e-6, 6.148_29e-5, 2.873_871_4e-4, -2.819_053e-3, -8.614_925e-3, -5.446_716e-3];
    let even = polynomial::<FMA>(&even, square);
    let odd = [2.109_754e-5, -2.791_930_2e-4, 5.709_098e-4, 6.102_819_5e-3, 8.353_371e-3];
    let odd = polynomial::<FMA>(&odd, square);
    let far = multiply_add::<FMA>(offset, odd, even);
    let far = polynomial::<FMA>(&[far, 2.178_068_7e-3, 0.999_593_1], offset);
    let value = if magnitude < 1.0 { near } else { far };
    value.copysign(x)
}

/// |x|, and the normal distribution below -|x| in two factors: e^(-x^2/2), and a ratio that falls slowly.
///
/// The ratio is a quotient of polynomials in |x|, of degrees 3 and 4 on [0, 9]; the product's absolute error is 3e-10
/// before rounding. Both are multiplied by 1.431, with which they round least where |x| is small, and the rounded
/// coefficients were chosen among their neighbours for the least error of [`gelu`].
#[inline(always)]
fn normal_tail<const FMA: bool>(x: f32) -> [f32; 3] {
    /// Here the first factor is 0, so that an infinite |x| times it is 0 as well.
    const FARTHEST: f32 = 13.25;
    let magnitude = x.abs();
    let magnitude = if FARTHEST < magnitude { FARTHEST } else { magnitude };
    let above = polynomial::<FMA>(&[1.422_399_75e-2, 0.123_775_914, 0.426_277_97, 0.715_746_94], magnitude);
    let below = [3.577_070_3e-2, 0.308_115_12, 1.123_364_9, 1.994_722_6, 1.431_493_9];
    let below = polynomial::<FMA>(&below, magnitude);
    [magnitude, bell::<FMA>(magnitude), above / below]
}

/// e^(-x^2/2) for |x| <= 13.25, where it is 0; what is below 1.2e-38 may be 0 before that.
///
/// It is 2^t with t = -x^2 / (2 ln 2). In base 2 the split t = n + r leaves nothing over, where that of `exp` takes two
/// products of n. Writes 2^r = 1 + r p(r), with p of degree 4 on [-1/2, 1/2]; relative error 9.3e-8, of which `gelu`,
/// where the ratio is at most a half, shows little.
#[inline(always)]
fn bell<const FMA: bool>(x: f32) -> f32 {
    const FACTOR: f32 = -0.5 * core::f32::consts::LOG2_E;
    let square = x * x;
    let shifted = multiply_add::<FMA>(square, FACTOR, ROUND_SINGLE);
    let exponent = (shifted.to_bits() as i32).wrapping_sub(ROUND_SINGLE.to_bits() as i32);
    let rest = multiply_add::<FMA>(square, FACTOR, ROUND_SINGLE - shifted);
    let quotient = [1.325_598e-3, 9.671_256e-3, 5.550_768_6e-2, 0.240_222_48, 0.693_146_94];
    let quotient = polynomial::<FMA>(&quotient, rest);
    let scale = power_of_two(exponent);
    multiply_add::<FMA>(scale * rest, quotient, scale)
}

/// x times the normal distribution up to x; error at most 1.1e-7 of x, and 1.3e-7 where nothing is fused.
///
/// Written as the larger of x and 0, less |x| times the distribution below -|x|: nothing cancels where both are small.
#[inline(always)]
pub fn gelu<const FMA: bool>(x: f32) -> f32 {
    let [magnitude, decay, ratio] = normal_tail::<FMA>(x);
    let ramp = if x < 0.0 { 0.0 } else { x };
    multiply_add::<FMA>(-magnitude, decay * ratio, ramp)
}

/// The slope of [`gelu`]: the normal distribution up to x plus x times its density; error at most 1.3e-7.
#[inline(always)]
pub fn gelu_slope<const FMA: bool>(x: f32) -> f32 {
    /// The density at 0, 1/sqrt(2 pi).
    const PEAK: f32 = 0.398_942_3;
    let [magnitude, decay, ratio] = normal_tail::<FMA>(x);
    let bump = decay * multiply_add::<FMA>(magnitude, PEAK, -ratio);
    if x < 0.0 { -bump } else { 1.0 + bump }
}

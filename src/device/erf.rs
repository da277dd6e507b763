//! The error function and the normal distribution in `f64`: what the reference computes, and what the faster ones of
//! other devices are held to.
//! Read next: `reference.rs`, or `cpu/math/normal.rs` for the fast ones.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

/// The error function; absolute error at most 2.3e-16.
///
/// Taylor's series about the nearest multiple c of one half. With
/// g(x) = 2/sqrt(pi) e^(-x^2), the derivative of erf, the equation g' = -2 x g
/// gives the coefficients of g(c + t) = sum of b_n t^n one from another:
/// (n + 1) b_(n+1) = -2 (c b_n + b_(n-1)). Since |t| <= 1/4, 24 terms suffice.
pub fn erf(x: f64) -> f64 {
    /// erf of 0, 1/2, 1, ..., 6, rounded from 40-digit values.
    const AT_HALVES: [f64; 13] = [
        0.0,
        0.5204998778130465,
        0.8427007929497149,
        0.9661051464753108,
        0.9953222650189527,
        0.999593047982555,
        0.9999779095030014,
        0.9999992569016276,
        0.9999999845827421,
        0.9999999998033839,
        0.9999999999984626,
        0.9999999999999927,
        1.0,
    ];
    let magnitude = x.abs();
    if magnitude.is_nan() {
        return x;
    }
    if magnitude >= 6.0 {
        return 1.0_f64.copysign(x);
    }
    let index = (2.0 * magnitude).round();
    let center = 0.5 * index;
    let offset = magnitude - center;
    let mut before_previous = 0.0;
    let mut previous = core::f64::consts::FRAC_2_SQRT_PI * (-center * center).exp();
    let mut power = offset;
    let mut sum = previous * power;
    for term in 1..24 {
        let order = f64::from(term);
        let coefficient = -2.0 * (center * previous + before_previous) / order;
        power *= offset;
        sum += coefficient * power / (order + 1.0);
        before_previous = previous;
        previous = coefficient;
    }
    (AT_HALVES[index as usize] + sum).copysign(x)
}

/// 1 - erf(x), with all its digits where that is small; relative error at most 1e-13.
///
/// From 2 on Laplace's continued fraction, e^(-x^2)/sqrt(pi) / (x + (1/2)/(x + (2/2)/(x + (3/2)/(x + ...)))), from its
/// innermost part outwards.
pub fn erfc(x: f64) -> f64 {
    if x.is_nan() || x < 2.0 {
        return 1.0 - erf(x);
    }
    let fraction = (1..=100).rev().fold(x, |inner, term| x + 0.5 * f64::from(term) / inner);
    (-x * x).exp() / (PI.sqrt() * fraction)
}

/// The normal distribution up to x.
pub fn normal_cdf(x: f64) -> f64 {
    0.5 * erfc(-x * FRAC_1_SQRT_2)
}

#[cfg(test)]
mod tests {
    use super::{erf, erfc};

    #[test]
    fn it_matches_known_values() {
        // From 40-digit arithmetic (mpmath).
        let known: [(f64, f64); 29] = [
            (1e-300, 1.1283791670955126e-300),
            (1e-20, 1.1283791670955125e-20),
            (1e-05, 1.1283791670579e-05),
            (0.1, 0.1124629160182849),
            (0.249999, 0.27632533015384253),
            (0.25, 0.27632639016823696),
            (0.3, 0.3286267594591274),
            (0.5, 0.5204998778130465),
            (0.7, 0.6778011938374184),
            (0.75, 0.7111556336535151),
            (0.9, 0.7969082124228322),
            (1.0, 0.8427007929497149),
            (1.2, 0.9103139782296353),
            (1.25, 0.9229001282564583),
            (1.3, 0.9340079449406524),
            (1.6, 0.976348383344644),
            (1.75, 0.9866716712191824),
            (1.9, 0.9927904292352575),
            (2.2, 0.9981371537020182),
            (2.25, 0.9985372834133188),
            (2.6, 0.9997639655834707),
            (2.75, 0.9998993780778803),
            (3.3, 0.9999969422902035),
            (4.1, 0.9999999932999724),
            (4.7, 0.9999999999700474),
            (5.2, 0.9999999999998075),
            (5.75, 0.9999999999999996),
            (5.9, 0.9999999999999999),
            (6.1, 1.0),
        ];
        for (x, expected) in known {
            let error = (erf(x) - expected).abs();
            assert!(error <= 2.3e-16, "erf({x}): error {error:e}");
            assert_eq!(erf(-x), -erf(x));
        }
        assert_eq!(erf(f64::INFINITY), 1.0);
        assert_eq!(erf(f64::NEG_INFINITY), -1.0);
        assert!(erf(f64::NAN).is_nan());
    }

    #[test]
    fn its_complement_keeps_its_digits() {
        // From 40-digit arithmetic (mpmath).
        let known: [(f64, f64); 18] = [
            (-3.0, 1.9999779095030015),
            (-0.5, 1.5204998778130465),
            (0.0, 1.0),
            (0.3, 0.6713732405408726),
            (0.9, 0.20309178757716786),
            (1.5, 0.033894853524689274),
            (1.99, 0.004888586800383003),
            (2.0, 0.004677734981047266),
            (2.01, 0.004475150644751763),
            (2.5, 0.0004069520174449589),
            (3.0, 2.209049699858544e-05),
            (4.0, 1.541725790028002e-08),
            (5.0, 1.537459794428035e-12),
            (6.0, 2.1519736712498913e-17),
            (8.0, 1.1224297172982926e-29),
            (12.0, 1.3562611692059042e-64),
            (20.0, 5.395865611607901e-176),
            (26.0, 5.663192408856143e-296),
        ];
        for (x, expected) in known {
            let error = (erfc(x) / expected - 1.0).abs();
            assert!(error <= 1e-13, "erfc({x}): relative error {error:e}");
        }
        assert_eq!((erfc(f64::INFINITY), erfc(f64::NEG_INFINITY), erfc(-7.0)), (0.0, 2.0, 2.0));
        assert!(erfc(f64::NAN).is_nan());
    }
}

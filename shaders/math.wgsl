// Elementary functions, because those of the language promise few digits (`exp`), overflow on some
// drivers (`tanh`), cancel near 0, or are missing (`erf`, in normal.wgsl). Ranges and polynomials are
// those of src/device/cpu/math, where they are explained; nothing here depends on the order in which
// a driver adds.

const LN_2_HIGH = 0.69314575;
const LN_2_LOW = 1.4286068e-6;

fn power_of_two(exponent: i32) -> f32 {
    return bitcast<f32>((exponent + 127) << 23u);
}

// The magnitude of one number with the sign of another.
fn with_sign(magnitude: f32, sign_of: f32) -> f32 {
    return bitcast<f32>((bitcast<u32>(magnitude) & 0x7fffffffu) | (bitcast<u32>(sign_of) & 0x80000000u));
}

struct Exponential {
    exponent: i32,
    rest: f32,
    tail: f32,
}

// x = n ln 2 + r: n, r and e^r - 1 - r.
fn exponential_parts(x: f32) -> Exponential {
    let multiple = round(x * 1.4426950408889634);
    let rest = (x - multiple * LN_2_HIGH) - multiple * LN_2_LOW;
    var polynomial = 1.3882497e-3;
    polynomial = polynomial * rest + 8.366647e-3;
    polynomial = polynomial * rest + 4.1667204e-2;
    polynomial = polynomial * rest + 0.16666542;
    polynomial = polynomial * rest + 0.49999997;
    return Exponential(i32(multiple), rest, rest * rest * polynomial);
}

// Comparisons are written so that NaN passes through.
fn exp_of(x: f32) -> f32 {
    var clamped = select(x, 89.0, x > 89.0);
    clamped = select(clamped, -104.0, clamped < -104.0);
    let parts = exponential_parts(clamped);
    let half = parts.exponent >> 1u;
    return (1.0 + (parts.rest + parts.tail)) * power_of_two(half) * power_of_two(parts.exponent - half);
}

fn exp_m1(x: f32) -> f32 {
    var clamped = select(x, 89.0, x > 89.0);
    clamped = select(clamped, -20.0, clamped < -20.0);
    let parts = exponential_parts(clamped);
    let half_scale = power_of_two(parts.exponent - 1);
    let half = half_scale * (parts.rest + parts.tail) + (half_scale - 0.5);
    return select(half + half, x, x == 0.0);
}

// ln(1 + f) + k ln 2 for sqrt(1/2) - 1 <= f <= sqrt(2) - 1.
fn logarithm_from_parts(fraction: f32, exponent: f32) -> f32 {
    var polynomial = 6.7466415e-2;
    polynomial = polynomial * fraction - 0.11675651;
    polynomial = polynomial * fraction + 0.11888161;
    polynomial = polynomial * fraction - 0.124055885;
    polynomial = polynomial * fraction + 0.14219552;
    polynomial = polynomial * fraction - 0.16667996;
    polynomial = polynomial * fraction + 0.20002119;
    polynomial = polynomial * fraction - 0.2500001;
    polynomial = polynomial * fraction + 0.33333313;
    let square = fraction * fraction;
    let tail = (polynomial * fraction * square + exponent * LN_2_LOW) - 0.5 * square;
    return (fraction + tail) + exponent * LN_2_HIGH;
}

fn ln(x: f32) -> f32 {
    let infinity = from_bits(0x7f800000u);
    let subnormal = x < 1.1754944e-38;
    let bits = bitcast<i32>(x * select(1.0, 8388608.0, subnormal));
    let exponent = (bits - 0x3f3504f3) >> 23u;
    let mantissa = bitcast<f32>(bits - (exponent << 23u));
    var value = logarithm_from_parts(mantissa - 1.0, f32(exponent - select(0, 23, subnormal)));
    value = select(x, value, x < infinity);
    value = select(value, -infinity, x == 0.0);
    return select(value, not_a_number(), x < 0.0);
}

fn ln_1p(x: f32) -> f32 {
    let near = x > -0.29 && x < 0.41;
    return select(ln(1.0 + x), logarithm_from_parts(x, 0.0), near);
}

fn tanh_of(x: f32) -> f32 {
    let magnitude = abs(x);
    let square = magnitude * magnitude;
    var near = 1.7927762e-2;
    near = near * square - 5.3318195e-2;
    near = near * square + 0.13329154;
    near = near * square - 0.33333257;
    near = magnitude + magnitude * (square * near);
    let clamped = select(magnitude, 10.0, magnitude > 10.0);
    let parts = exponential_parts(clamped + clamped);
    let scale = power_of_two(parts.exponent);
    let minus_one = scale * (parts.rest + parts.tail) + (scale - 1.0);
    let far = minus_one / (minus_one + 2.0);
    return with_sign(select(far, near, magnitude < 0.45), x);
}

fn sigmoid(x: f32) -> f32 {
    let decay = exp_of(-abs(x));
    let quotient = decay / (1.0 + decay);
    let ceiling = select(1.0, decay, x < 0.0);
    return ceiling - ceiling * quotient;
}

// A negative base takes whole exponents only, unless it is infinite.
fn power(base: f32, exponent: f32) -> f32 {
    let value = exp_of(exponent * ln(abs(base)));
    let whole = floor(exponent) == exponent;
    let odd = abs(exponent - 2.0 * floor(exponent * 0.5)) == 1.0;
    let defined = whole || base < LOWEST;
    let of_negative = select(not_a_number(), select(value, -value, odd), defined);
    let result = select(value, of_negative, base < 0.0);
    return select(result, 1.0, exponent == 0.0 || base == 1.0);
}

// -1, 0 or 1; NaN stays.
fn sign_of(x: f32) -> f32 {
    return select(select(x, -1.0, x < 0.0), 1.0, x > 0.0);
}

// Comparisons give 1 or 0, and 0 beside NaN.
fn less(a: f32, b: f32) -> f32 {
    return select(0.0, 1.0, a < b && !is_nan(a) && !is_nan(b));
}

fn less_equal(a: f32, b: f32) -> f32 {
    return select(0.0, 1.0, a <= b && !is_nan(a) && !is_nan(b));
}

fn equal(a: f32, b: f32) -> f32 {
    return select(0.0, 1.0, a == b && !is_nan(a) && !is_nan(b));
}

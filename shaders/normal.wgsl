// The error function, and GELU, which is made of the same integral. Ranges and polynomials are those of
// src/device/cpu/math/normal.rs, where they are explained.

fn erf(x: f32) -> f32 {
    let magnitude = abs(x);
    let square = magnitude * magnitude;
    var near = 7.853862e-5;
    near = near * square - 8.0101937e-4;
    near = near * square + 5.1883277e-3;
    near = near * square - 2.6853813e-2;
    near = near * square + 0.112835854;
    near = near * square - 0.37612626;
    near = near * square + 0.12837917;
    near = magnitude + magnitude * near;
    let offset = select(magnitude, 3.925, magnitude > 3.925) - 2.5;
    var far = -9.055206e-6;
    far = far * offset + 2.109754e-5;
    far = far * offset + 6.14829e-5;
    far = far * offset - 2.7919302e-4;
    far = far * offset + 2.8738714e-4;
    far = far * offset + 5.709098e-4;
    far = far * offset - 2.819053e-3;
    far = far * offset + 6.1028195e-3;
    far = far * offset - 8.614925e-3;
    far = far * offset + 8.353371e-3;
    far = far * offset - 5.446716e-3;
    far = far * offset + 2.1780687e-3;
    far = far * offset + 0.9995931;
    return with_sign(select(far, near, magnitude < 1.0), x);
}

struct NormalTail {
    magnitude: f32,
    decay: f32,
    ratio: f32,
}

// |x|, and the normal distribution below -|x| in two factors.
fn normal_tail(x: f32) -> NormalTail {
    let magnitude = select(abs(x), 13.25, abs(x) > 13.25);
    var above = 1.42239975e-2;
    above = above * magnitude + 0.123775914;
    above = above * magnitude + 0.42627797;
    above = above * magnitude + 0.71574694;
    var below = 3.5770703e-2;
    below = below * magnitude + 0.30811512;
    below = below * magnitude + 1.1233649;
    below = below * magnitude + 1.9947226;
    below = below * magnitude + 1.4314939;
    return NormalTail(magnitude, bell(magnitude), above / below);
}

// e^(-x^2/2) for |x| <= 13.25: 2^n (1 + r p(r)).
fn bell(x: f32) -> f32 {
    let exponent = -0.7213475 * x * x;
    let whole = round(exponent);
    let rest = exponent - whole;
    var polynomial = 1.325598e-3;
    polynomial = polynomial * rest + 9.671256e-3;
    polynomial = polynomial * rest + 5.5507686e-2;
    polynomial = polynomial * rest + 0.24022248;
    polynomial = polynomial * rest + 0.69314694;
    return power_of_two(i32(whole)) * (1.0 + rest * polynomial);
}

// x times the normal distribution up to x.
fn gelu(x: f32) -> f32 {
    let tail = normal_tail(x);
    return select(x, 0.0, x < 0.0) - tail.magnitude * (tail.decay * tail.ratio);
}

fn gelu_slope(x: f32) -> f32 {
    let tail = normal_tail(x);
    let bump = tail.decay * (tail.magnitude * 0.3989423 - tail.ratio);
    return select(1.0 + bump, -bump, x < 0.0);
}

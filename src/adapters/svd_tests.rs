//! The factors of `svd.rs` against what defines them.

use super::svd;
use crate::rng::Rng;

#[test]
fn the_factors_multiply_to_the_matrix_and_are_orthonormal() {
    for (rows, columns) in [(7, 4), (4, 7), (5, 5), (1, 3), (6, 1)] {
        let mut rng = Rng::seeded(3);
        let a: Vec<f64> = (0..rows * columns).map(|_| rng.normal()).collect();
        let (left, values, right) = svd(&a, rows, columns);
        let k = rows.min(columns);
        assert_eq!((left.len(), values.len(), right.len()), (rows * k, k, columns * k));
        assert!(values.windows(2).all(|pair| pair[0] >= pair[1]));
        for row in 0..rows {
            for column in 0..columns {
                let product: f64 =
                    (0..k).map(|i| left[row * k + i] * values[i] * right[column * k + i]).sum();
                assert!((product - a[row * columns + column]).abs() < 1e-12);
            }
        }
        for i in 0..k {
            for j in 0..k {
                let product: f64 = (0..rows).map(|row| left[row * k + i] * left[row * k + j]).sum();
                assert!((product - f64::from(u8::from(i == j))).abs() < 1e-12);
            }
        }
    }
}

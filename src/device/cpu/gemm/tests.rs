//! Tests of products: every kernel on every layout of its operands against double precision.

use super::*;

/// A matrix operand of a case: strides by kind, with offsets for every member of the batch.
struct Operand {
    values: Vec<f32>,
    offsets: Vec<usize>,
    row_stride: isize,
    col_stride: isize,
}

#[derive(Clone, Copy, Debug)]
enum Layout {
    RowMajor,
    Transposed,
    /// Every second element of rows that are three elements too long.
    Sparse,
    /// Both strides negative.
    Reversed,
    /// One row for all rows, as a bias has.
    RepeatedRow,
    RepeatedColumn,
}
use Layout::*;

impl Operand {
    fn new(layout: Layout, batch: usize, rows: usize, columns: usize, seed: u32) -> Operand {
        let (r, c) = (rows as isize, columns as isize);
        let (row_stride, col_stride, first) = match layout {
            RowMajor => (c, 1, 0),
            Transposed => (1, r, 0),
            Sparse => (2 * c + 3, 2, 0),
            Reversed => (-c, -1, (r * c - 1).max(0)),
            RepeatedRow => (0, 1, 0),
            RepeatedColumn => (1, 0, 0),
        };
        let size = (2 * columns + 3) * rows.max(1) + 1;
        let mut state = seed;
        let values = (0..batch.max(1) * size).map(|_| {
            state = state.wrapping_mul(1664525).wrapping_add(1013904223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        });
        // The batch runs backwards through memory: offsets need no order.
        let offsets = (0..batch).rev().map(|index| index * size + first as usize).collect();
        Operand { values: values.collect(), offsets, row_stride, col_stride }
    }

    fn matrices(&self) -> Matrices<'_> {
        let Operand { values, offsets, row_stride, col_stride } = self;
        Matrices { values, offsets, row_stride: *row_stride, col_stride: *col_stride }
    }

    fn get(&self, index: usize, row: usize, column: usize) -> f64 {
        let at =
            self.offsets[index] as isize + row as isize * self.row_stride + column as isize * self.col_stride;
        f64::from(self.values[at as usize])
    }
}

struct Case {
    shape: [usize; 3],
    a: Operand,
    b: Operand,
    add: Option<Operand>,
    batch: usize,
    name: String,
}

impl Case {
    fn new(batch: usize, shape: [usize; 3], layouts: [Layout; 2], add: Option<Layout>) -> Case {
        let [m, k, n] = shape;
        Case {
            shape,
            batch,
            a: Operand::new(layouts[0], batch, m, k, 1),
            b: Operand::new(layouts[1], batch, k, n, 2),
            add: add.map(|layout| Operand::new(layout, batch, m, n, 3)),
            name: format!("{batch} x {shape:?} {layouts:?} add {add:?}"),
        }
    }

    fn run(&self, kernel: &'static MicroKernel, scale: f32) -> Vec<f32> {
        let [m, _, n] = self.shape;
        let mut out = vec![f32::NAN; self.batch * m * n];
        let add = self.add.as_ref().map(Operand::matrices);
        gemm_on(kernel, self.shape, [&self.a.matrices(), &self.b.matrices()], scale, add.as_ref(), &mut out);
        out
    }

    fn check(&self) {
        let expected = self.expected();
        for kernel in micro_kernel::supported() {
            for scale in [1.0, -0.37] {
                let out = self.run(kernel, scale);
                for (position, (&value, &[sum, size, added])) in out.iter().zip(&expected).enumerate() {
                    let scale = f64::from(scale);
                    let (exact, allowed) = (added + scale * sum, 1e-6 * (size + added.abs()) + 1e-12);
                    let close = (f64::from(value) - exact).abs() <= allowed;
                    assert!(close, "{}, {}: {value} at {position}, not {exact}", kernel.name, self.name);
                }
            }
        }
    }

    /// Per element the sum of products, the sum of their magnitudes, and the added value.
    fn expected(&self) -> Vec<[f64; 3]> {
        let [m, k, n] = self.shape;
        let elements = (0..self.batch).flat_map(|i| (0..m).flat_map(move |r| (0..n).map(move |c| (i, r, c))));
        let expect = |(index, row, column)| {
            let mut sums = [0.0, 0.0, self.add.as_ref().map_or(0.0, |add| add.get(index, row, column))];
            for step in 0..k {
                let product = self.a.get(index, row, step) * self.b.get(index, step, column);
                (sums[0], sums[1]) = (sums[0] + product, sums[1] + product.abs());
            }
            sums
        };
        elements.map(expect).collect()
    }
}

const ALL: [Layout; 6] = [RowMajor, Transposed, Sparse, Reversed, RepeatedRow, RepeatedColumn];

#[test]
fn matches_double_precision_for_all_layouts() {
    for shape in [[5, 7, 3], [17, 33, 35], [70, 20, 50], [1, 40, 37], [9, 3, 1], [3, 50, 90]] {
        for a in ALL {
            for b in ALL {
                Case::new(1, shape, [a, b], None).check();
                Case::new(3, shape, [a, b], Some(a)).check();
            }
        }
    }
}

#[test]
fn matches_double_precision_at_every_edge_of_the_tiles() {
    for size in 1..40 {
        for layouts in [[RowMajor, RowMajor], [Transposed, Transposed], [RowMajor, Transposed]] {
            Case::new(1, [size, 19, 33], layouts, Some(RepeatedRow)).check();
            Case::new(1, [16, size, 9], layouts, Some(RowMajor)).check();
            Case::new(1, [65, 5, size], layouts, Some(Transposed)).check();
            Case::new(1, [size, 21, size], layouts, None).check();
        }
    }
}

#[test]
fn matches_double_precision_beyond_one_block() {
    let cases = [
        [30, 800, 70],
        [8, 1100, 40],
        [300, 400, 100],
        [70, 9, 2100],
        [4200, 5, 17],
        [1, 600, 700],
        [4, 9000, 40],
        [2, 9, 2100],
    ];
    for shape in cases {
        for layouts in [[RowMajor, RowMajor], [Transposed, RowMajor], [RowMajor, Transposed]] {
            Case::new(1, shape, layouts, Some(RepeatedRow)).check();
        }
    }
    Case::new(40, [64, 32, 64], [RowMajor, Transposed], None).check();
}

#[test]
fn packing_writes_its_panel_and_nothing_behind_it() {
    const BEHIND: f32 = 7.0;
    for kernel in micro_kernel::supported() {
        let widths = 1..=kernel.columns();
        for (width, depth) in widths.flat_map(|width| [1, 2, 7, 16, 19].map(|depth| (width, depth))) {
            for layout in [RowMajor, Transposed, Sparse] {
                let across = (width - width / 3).max(1);
                let operand = Operand::new(layout, 1, depth, across, 11);
                let mut packed = vec![BEHIND; depth * width + 32];
                let (source, destination) = (operand.matrices().view(0), packed.as_mut_ptr());
                // SAFETY: the operand has depth x across elements, the destination more than depth x width.
                unsafe { kernel.pack(&pack::Panel { source, depth, across, width, destination }) };
                let (panel, behind) = packed.split_at(depth * width);
                let name = format!("{} {width} x {depth} {layout:?}", kernel.name);
                assert!(behind.iter().all(|&x| x == BEHIND), "{name}: something was written behind");
                for (step, row) in panel.chunks(width).enumerate() {
                    for (column, &x) in row.iter().enumerate() {
                        let expected =
                            if column < across { operand.get(0, step, column) as f32 } else { 0.0 };
                        assert_eq!(x, expected, "{name}: step {step}, column {column}");
                    }
                }
            }
        }
    }
}

#[test]
fn empty_products_are_empty_or_the_added_matrix() {
    for shape in [[0, 3, 4], [3, 4, 0], [0, 0, 0], [3, 0, 4], [1, 0, 50], [40, 0, 1], [30, 0, 40]] {
        for batch in [0, 1, 2] {
            Case::new(batch, shape, [RowMajor, RowMajor], None).check();
            Case::new(batch, shape, [Transposed, Transposed], Some(RepeatedColumn)).check();
        }
    }
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let shapes = [
        [300, 500, 200],
        [8, 2048, 384],
        [384, 2048, 8],
        [1, 384, 3000],
        [2000, 700, 1],
        [8, 384, 3000],
        [200, 600, 8],
    ];
    let mut cases = Vec::new();
    for shape in shapes {
        for layouts in [[RowMajor, RowMajor], [Transposed, RowMajor], [RowMajor, Transposed]] {
            cases.push(Case::new(1, shape, layouts, Some(RepeatedRow)));
        }
    }
    cases.push(Case::new(50, [64, 32, 64], [RowMajor, Transposed], None));
    for kernel in micro_kernel::supported() {
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| cases.iter().map(|case| case.run(kernel, 0.5)).collect::<Vec<_>>())
        };
        let one = run(1);
        for threads in [2, 4] {
            assert!(one == run(threads), "{} with {threads} threads", kernel.name);
        }
    }
}

#[test]
#[should_panic(expected = "reaches outside")]
fn refuses_a_matrix_that_leaves_its_slice() {
    let values = [1.0; 12];
    let a = Matrices { values: &values, offsets: &[0], row_stride: 4, col_stride: 1 };
    let b = Matrices { values: &values, offsets: &[1], row_stride: 3, col_stride: 1 };
    gemm(3, 4, 3, &a, &b, 1.0, None, &mut [0.0; 9]);
}

#[test]
#[should_panic(expected = "reaches outside")]
fn refuses_a_negative_stride_that_leaves_its_slice() {
    let values = [1.0; 12];
    let a = Matrices { values: &values, offsets: &[7], row_stride: -4, col_stride: 1 };
    gemm(3, 4, 3, &a, &a, 1.0, None, &mut [0.0; 9]);
}

//! Where a product's operands lie, and how a finished sum reaches memory.
//!
//! Views are addresses without lengths: `mod.rs` checks once that every element lies inside its slice, and
//! whatever is cut out of a view stays inside.

/// Floats of a cache line.
const LINE: usize = 16;

/// A strided matrix by its first element. Only views made from `out` are ever written to.
#[derive(Clone, Copy)]
pub struct View {
    pub pointer: *mut f32,
    pub row_stride: isize,
    pub col_stride: isize,
}

// SAFETY: a View is only an address; whoever dereferences it must show that the element exists and
// that no other thread writes to it at the same time.
unsafe impl Send for View {}
// SAFETY: as above.
unsafe impl Sync for View {}

impl View {
    /// The address of element (row, column); dereferencing it is what needs care.
    #[inline(always)]
    pub fn at(self, row: usize, column: usize) -> *mut f32 {
        let offset = row as isize * self.row_stride + column as isize * self.col_stride;
        self.pointer.wrapping_offset(offset)
    }

    /// The same matrix without its first `row` rows and `column` columns.
    pub fn from(self, row: usize, column: usize) -> View {
        View { pointer: self.at(row, column), ..self }
    }

    pub fn transposed(self) -> View {
        View { row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }

    /// Addresses in the lines of memory that hold the first `rows` x `columns` elements.
    pub fn lines(self, rows: usize, columns: usize) -> Lines {
        let along_rows = self.row_stride != 1 || self.col_stride == 1;
        let (view, [rows, columns]) =
            if along_rows { (self, [rows, columns]) } else { (self.transposed(), [columns, rows]) };
        Lines {
            view,
            rows: if columns == 0 { 0 } else { rows },
            lines_a_row: columns.div_ceil(LINE),
            line: 0,
        }
    }
}

/// Lines of memory, row after row; counted on, because a division for each would cost what asking ahead gains.
pub struct Lines {
    /// What is left, from its first row on.
    view: View,
    rows: usize,
    lines_a_row: usize,
    /// The next line of that row.
    line: usize,
}

impl Iterator for Lines {
    type Item = *const f32;

    #[inline(always)]
    fn next(&mut self) -> Option<*const f32> {
        if self.rows == 0 {
            return None;
        }
        let address = self.view.at(0, self.line * LINE).cast_const();
        self.line += 1;
        if self.line == self.lines_a_row {
            (self.view, self.rows, self.line) = (self.view.from(1, 0), self.rows - 1, 0);
        }
        Some(address)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.rows * self.lines_a_row - self.line;
        (left, Some(left))
    }
}

impl ExactSizeIterator for Lines {}

/// Asks for the line of memory at `address`. A hint that never faults, wherever the address lies.
#[inline(always)]
pub fn prefetch(address: *const f32) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// How a finished sum reaches memory: `out = addend + scale * sum`.
#[derive(Clone, Copy)]
pub struct Epilogue {
    pub out: View,
    pub scale: f32,
    pub addend: Option<View>,
}

impl Epilogue {
    pub fn from(self, row: usize, column: usize) -> Epilogue {
        let addend = self.addend.map(|addend| addend.from(row, column));
        Epilogue { out: self.out.from(row, column), addend, ..self }
    }

    pub fn transposed(self) -> Epilogue {
        let addend = self.addend.map(View::transposed);
        Epilogue { out: self.out.transposed(), addend, ..self }
    }

    /// The epilogue for a later part of the depth: it adds to what the earlier parts left in `out`.
    pub fn accumulating(self) -> Epilogue {
        Epilogue { addend: Some(self.out), ..self }
    }

    /// Finishes one element.
    ///
    /// # Safety
    /// Element (row, column) of `out` and of the addend exists, and no other thread touches it.
    #[inline(always)]
    pub unsafe fn write(&self, row: usize, column: usize, sum: f32) {
        // SAFETY: the caller's promise.
        unsafe {
            let before = self.addend.map(|addend| *addend.at(row, column));
            *self.out.at(row, column) = match before {
                Some(before) => before + self.scale * sum,
                None => self.scale * sum,
            };
        }
    }

    /// Finishes the first `columns` elements of each row from rows of `width` sums, one by one.
    ///
    /// Not inlined: in every kernel of every size it was a quarter of their code.
    ///
    /// # Safety
    /// As for [`write`](Epilogue::write), of all those elements.
    #[inline(never)]
    pub unsafe fn write_rows(&self, sums: &[f32], width: usize, columns: usize) {
        for (row, sums) in sums.chunks(width).enumerate() {
            for (column, &sum) in sums[..columns].iter().enumerate() {
                // SAFETY: the caller's promise.
                unsafe { self.write(row, column, sum) };
            }
        }
    }
}
